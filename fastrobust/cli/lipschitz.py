"""Lipschitz bounds for the command line: of checkpoints, callables and whole run folders."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import data
from ..models import checkpoint
from ..report import norm_figure, norms
from ..report.claims import norms as norm_claims
from ..report.norm_tables import Reports
from ..report.svg import on_paper
from ..runs.folder import RunFolder
from ..spectral.bounds import LipschitzReport, lipschitz
from ..utils import atomic
from . import loading


def find(
    places: Sequence[str],
    *,
    image: str | None,
    data_set: str | None,
    limit: int,
    eps: Sequence[float],
    device: str,
    data_root: Path | None,
) -> dict[str, LipschitzReport]:
    """Return the Lipschitz bounds of classifiers by name.

    Args:
        places: Checkpoints, names such as ``package.module:callable``, and run folders, which
            stand for all classifiers in them.
        image: Shape such as "3x32x32"; by default that of the images that a run folder holds, or
            of the data set that a checkpoint names.
        data_set: Its first `limit` test images give the lower bound and the certified radii.
        limit: How many.
        eps: L2 radii for both sides of the paper's inequality.
        device: Where to compute what images say.
        data_root: Where the data files are.

    Raises:
        FileNotFoundError: A folder holds no classifier.
        ValueError: `eps` comes without a data set, or the images' shape is not known.
    """
    if eps and data_set is None:
        raise ValueError("--eps must come with --data-set, got none")
    x = y = None
    if data_set is not None:
        test = data.load(data_set, data_root, splits=("test",))
        x, y = test.x_test[:limit].to(device), test.y_test[:limit].to(device)
        image = image or "x".join(map(str, x.shape[1:]))
    found: dict[str, LipschitzReport] = {}
    for name in places:
        shape = image or _stored_shape(name)
        for place in _expanded(name):
            model = loading.load_model(place, device)
            _, high, wide = loading.image_shape(shape, place)
            found[_name(place, found)] = lipschitz(model, (high, wide), x, y, eps=eps)
    return norms.in_order(found)


def as_json(reports: Reports) -> dict[str, Any]:
    """Return everything in `reports` as plain values; a number that is not finite is None."""
    drawn = norm_claims.conclusion(reports)
    return {
        "models": {name: _plain(report) for name, report in reports.items()},
        "conclusion": drawn.sentence if drawn else None,
        "caveat": norm_claims.CAVEAT,
    }


def write_picture(reports: Reports, path: Path) -> None:
    """Write Figure 4 as an SVG file.

    Raises:
        ValueError: No classifier has a convolution.
    """
    svg = norm_figure.draw(reports)
    if svg is None:
        raise ValueError("--picture must show convolutions, got classifiers without any")
    text = on_paper(svg)
    atomic.replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _expanded(name: str) -> list[str]:
    """Return a run folder's checkpoints, else the name itself."""
    if not Path(name).is_dir():
        return [name]
    if found := sorted(map(str, (Path(name) / "models").glob("*.safetensors"))):
        return found
    raise FileNotFoundError(f"{name} must be a run folder with checkpoints in models/, got none")


def _stored_shape(name: str) -> str | None:
    """Return the shape of the images that a run folder holds, None without any."""
    stored = sorted((Path(name) / "images").glob("*.npz"))
    if not stored:
        return None
    images = RunFolder(name).read_images(stored[0].stem)["adversarial"]
    return "x".join(map(str, images.shape[1:]))


def _name(place: str, taken: dict[str, LipschitzReport]) -> str:
    """Return the model's name that a checkpoint knows, where it is its own, else the place."""
    known = checkpoint.read_facts(place).get("model_name") if os.path.exists(place) else None
    return known if known and known not in taken else place


def _plain(report: LipschitzReport) -> dict[str, Any]:
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
                **{name: _finite(value) for name, value in asdict(one).items()},
                "log_right": _finite(one.log_right),
                "holds": one.holds,
            }
            for one in report.inequalities
        ],
        "layers": [asdict(layer) for layer in report.layers],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
