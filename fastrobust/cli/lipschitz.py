"""``fastrobust lipschitz``: Lipschitz bounds of checkpoints, callables and whole run folders."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import data
from ..models import checkpoint
from ..report import norm_figure, norm_tables, norms
from ..report.claims import norms as norm_claims
from ..report.norm_tables import Reports
from ..report.svg import on_paper
from ..runs.folder import RunFolder
from ..spectral import bounds
from ..utils import atomic
from . import options, terminal
from .loading import image_shape, load_model


def _radius(text: str) -> float:
    radius = float(text)
    if not 0 <= radius < math.inf:
        raise ValueError
    return radius


def lipschitz(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folders (all their classifiers), checkpoints, or package.module:callable "
            "returning an nn.Module.",
            metavar="RUN_OR_MODEL...",
        ),
    ],
    image: options.Image = None,
    data_set: Annotated[
        str | None,
        typer.Option(
            help="Also compute a lower bound and certified radii on the test images of this data "
            "set.",
            metavar="NAME",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Use only the first N test images.")] = 100,
    eps: Annotated[
        Sequence[float] | None,
        typer.Option(
            help="L2 radii at which to measure both sides of the inequality in the paper's section "
            "3.4: the loss under attack, and its bound.",
            metavar="E,E",
            parser=options.comma_separated(_radius, "numbers >= 0"),
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Write Figure 4 to this .svg file. Default: lipschitz.svg in the run folder, if "
            "the only argument is one."
        ),
    ] = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Bound the Lipschitz constant of a classifier, layer by layer (the paper's Figure 4)."""
    if eps and data_set is None:
        raise ValueError("--eps must come with --data-set, got none")
    options.set_threads(threads, small=False)
    x = y = None
    if data_set is not None:
        test = data.load(data_set, data_root, splits=("test",))
        x, y = test.x_test[:limit].to(device), test.y_test[:limit].to(device)
        image = image or "x".join(map(str, x.shape[1:]))
    reports: dict[str, bounds.LipschitzReport] = {}
    for name in models:
        shape = image or _stored_shape(name)
        for path in _checkpoints(name):
            model = load_model(path, device)
            _, height, width = image_shape(shape, path)
            reports[_label(path, reports)] = bounds.lipschitz(
                model, (height, width), x, y, eps=eps or ()
            )
    reports = norms.in_order(reports)
    if picture is None and len(models) == 1 and Path(models[0]).is_dir():
        picture = Path(models[0]) / "lipschitz.svg"
    if picture is not None:
        _write_picture(reports, picture)
    if as_json:
        terminal.show_json({**_as_json(reports), "picture": picture and str(picture)})
        return
    terminal.show(norm_tables.tables(reports))
    for line in (norm_tables.LEGEND, *norm_claims.sentences(reports)):
        print(line)
    if picture is not None:
        print(f"picture  {picture}")


def _checkpoints(name: str) -> list[str]:
    """Return the checkpoints of a run folder, otherwise the name itself."""
    if not Path(name).is_dir():
        return [name]
    if paths := sorted(map(str, (Path(name) / "models").glob("*.safetensors"))):
        return paths
    raise FileNotFoundError(f"{name} must be a run folder with checkpoints in models/, got none")


def _stored_shape(name: str) -> str | None:
    """Return the shape of the images in a run folder, None if it has none."""
    stored = sorted((Path(name) / "images").glob("*.npz"))
    if not stored:
        return None
    images = RunFolder(name).read_images(stored[0].stem)["adversarial"]
    return "x".join(map(str, images.shape[1:]))


def _label(path: str, taken: Reports) -> str:
    """Return the model's name in a checkpoint if it is not taken, otherwise the path."""
    name = checkpoint.read_facts(path).get("model_name") if os.path.exists(path) else None
    return name if name and name not in taken else path


def _write_picture(reports: Reports, path: Path) -> None:
    """Write Figure 4 as an SVG file."""
    svg = norm_figure.draw(reports)
    if svg is None:
        raise ValueError("--picture needs a classifier with convolutions, got none")
    text = on_paper(svg)
    atomic.replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _as_json(reports: Reports) -> dict[str, Any]:
    """Return all reports as plain values; a number that is not finite becomes None."""
    conclusion = norm_claims.conclusion(reports)
    return {
        "models": {name: _plain(report) for name, report in reports.items()},
        "conclusion": conclusion.sentence if conclusion else None,
        "caveat": norm_claims.CAVEAT,
    }


def _plain(report: bounds.LipschitzReport) -> dict[str, Any]:
    images = report.images
    return {
        "input_size": list(report.input_size),
        "log_bound": _finite(report.log_bound),
        "log_bound_units": _finite(report.log_bound_units),
        "log_bound_net": _finite(report.log_bound_net),
        "lower_bound": report.lower_bound,
        "images": images and {name: column.tolist() for name, column in vars(images).items()},
        "inequalities": [
            {
                **{name: _finite(value) for name, value in asdict(inequality).items()},
                "log_right": _finite(inequality.log_right),
                "holds": inequality.holds,
            }
            for inequality in report.inequalities
        ],
        "layers": [asdict(layer) for layer in report.layers],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
