"""``fastrobust evaluate``: the robust accuracy of a classifier, and of all those of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from .. import data
from ..attacks.sign import PGD
from ..engine.prepared import Model, prepare
from ..evaluation import evaluation, files
from ..paper.columns import COMPARED_EPS
from ..report import evaluation_page
from ..runs.folder import checkpoint_path, evaluation_path
from ..runs.plan import Plan
from ..train.classifiers import MODEL_NAMES
from ..utils.text import slug
from . import options, terminal
from .loading import MODEL_HELP, load_model


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    eps: Annotated[
        float, typer.Option(help="Radius of the ball around each image, on the [0, 1] pixel scale.")
    ],
    norm: Annotated[str, typer.Option(help="Norm of the ball: linf or l2.")] = "linf",
    budget: Annotated[
        str,
        typer.Option(
            help="How many attacks and steps to try: quick, standard (AutoAttack's attacks and "
            "more) or thorough."
        ),
    ] = "standard",
    data_set: options.DataSet = "digits",
    limit: options.Limit = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            help="Also try adversarial images crafted on this model (repeatable).", metavar="MODEL"
        ),
    ] = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output directory. Default: in runs/, named after model, norm and eps."),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure a classifier's robust accuracy under many attacks, with sanity checks.

    Attacks run from the cheapest to the most expensive, each on the images not yet broken. An
    interrupted evaluation resumes. The exit code is 1 if a sanity check fails.
    """
    options.set_threads(threads, small=data_set == "digits" and device == "cpu")
    out = out or Path("runs") / f"evaluate-{slug(Path(model).stem)}-{norm}-{eps:g}"
    result, written = examine(
        model, data_set,
        eps=eps, norm=norm, budget=budget, limit=limit, others=transfer or [], device=device,
        seed=seed, data_root=data_root, out=out,
    )  # fmt: skip
    paths = {name: str(path) for name, path in vars(written).items()}
    if as_json:
        terminal.show_json({**files.as_json(result), **paths})
    else:
        terminal.show(evaluation_page.tables(result))
        for line in evaluation_page.sentences(result):
            print(line)
        for name, path in paths.items():
            print(f"{name:9}{path}")
    if not result.believable:
        raise typer.Exit(1)


def examine(
    model: str,
    data_set: str,
    *,
    eps: float,
    norm: str,
    budget: str,
    limit: int | None,
    others: Sequence[str],
    device: str,
    seed: int,
    data_root: Path | None,
    out: Path,
) -> tuple[evaluation.Evaluation, evaluation_page.EvaluationFiles]:
    """Evaluate a classifier on the first test images of a data set, and write the results.

    Args:
        model: A checkpoint, or ``package.module:callable``.
        data_set: As ``data.load`` takes it.
        eps: Radius, in pixel units.
        norm: ``"linf"`` or ``"l2"``.
        budget: As :func:`fastrobust.evaluate` takes it.
        limit: Number of images, None for all.
        others: Models like `model`, whose adversarial images are tried on it.
        device: Where to compute.
        seed: Random seed.
        data_root: Where the data files are.
        out: Folder of finished parts and of the results.

    Raises:
        What loading and :func:`fastrobust.evaluate` raise.
    """
    classifier = load_model(model, device)
    sources = [load_model(name, device) for name in others]
    test = data.load(data_set, data_root, splits=("test",))
    x, y = test.x_test[:limit].to(device), test.y_test[:limit].to(device)
    transferred = [_crafted_on(source, x, y, eps, norm, seed) for source in sources]
    result = evaluation.evaluate(
        classifier, x, y, eps, norm, budget, seed=seed, transferred=transferred, out=out
    )
    return result, evaluation_page.write(result, x, y, out, f"{Path(model).stem} on {data_set}")


def examine_run(plan: Plan, budget: str, *, device: str, data_root: Path | None, out: Path) -> None:
    """Evaluate the paper's classifiers of a run folder on the run's images, into the folder.

    The radii are the middle and the largest eps of the untargeted tables. Each classifier is also
    tried with images that were crafted on the others. Existing evaluations are kept.

    Raises:
        StoreError: The folder holds an evaluation of another budget, seed or number of images.
        What :func:`examine` raises.
    """
    wanted: dict[str, Any] = {"budget": budget, "seed": plan.seed}
    if plan.limit is not None:
        images = data.load(plan.data_set, data_root, splits=("test",)).y_test[: plan.limit]
        wanted["count"] = len(images)
    paths = {name: str(checkpoint_path(out, name)) for name in plan.models if name in MODEL_NAMES}
    for name, path in paths.items():
        for eps in COMPARED_EPS:
            folder = evaluation_path(out, name, eps)
            if files.holds(folder, wanted):
                continue
            examine(
                path, plan.data_set,
                eps=eps, norm="linf", budget=budget, limit=plan.limit,
                others=[other for other in paths.values() if other != path], device=device,
                seed=plan.seed, data_root=data_root, out=folder,
            )  # fmt: skip


def _crafted_on(source: Model, x: Tensor, y: Tensor, eps: float, norm: str, seed: int) -> Tensor:
    """Return images that another model misclassifies with the largest margin PGD reaches."""
    ball: Any = {"eps": eps, "norm": norm}
    attack = PGD(loss="margin", steps=40, step_size=eps / 10, keep="last", **ball)
    return attack(prepare(source), x, y, seed=seed)
