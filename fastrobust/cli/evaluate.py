"""Evaluates one classifier for the command line: from its name to the files of a verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import attacks, data, engine
from ..engine.prepared import Model
from ..evaluation import files
from ..evaluation.evaluation import Evaluation, evaluate
from ..paper.columns import COMPARED_EPS
from ..report import evaluation_page
from ..runs.folder import checkpoint_path, evaluation_path
from ..runs.plan import Plan
from ..train.classifiers import MODEL_NAMES
from . import loading


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
) -> tuple[Evaluation, evaluation_page.EvaluationFiles]:
    """Evaluate a classifier on the first test images of a data set, and write what comes of it.

    Args:
        model: A checkpoint, or ``package.module:callable``.
        data_set: As ``data.load`` takes it.
        eps: Radius, in pixel units.
        norm: ``"linf"`` or ``"l2"``.
        budget: As :func:`fastrobust.evaluate` takes it.
        limit: Number of images, None for all.
        others: Models like `model` whose adversarial images are tried on it.
        device: Where to compute.
        seed: Of random numbers.
        data_root: Where the data files are.
        out: Folder of finished parts and of the verdict.

    Raises:
        What loading and :func:`fastrobust.evaluate` raise.
    """
    subject = loading.load_model(model, device)
    sources = [loading.load_model(name, device) for name in others]
    test = data.load(data_set, data_root, splits=("test",))
    x, y = test.x_test[:limit].to(device), test.y_test[:limit].to(device)
    made = [_made_on(source, x, y, eps, norm, seed) for source in sources]
    found = evaluate(subject, x, y, eps, norm, budget, seed=seed, transferred=made, out=out)
    return found, evaluation_page.write(found, x, y, out, f"{Path(model).stem} on {data_set}")


def examine_run(plan: Plan, budget: str, *, device: str, data_root: Path | None, out: Path) -> None:
    """Evaluate the paper's classifiers of a run folder on the run's images, into the folder.

    Within the middle and the largest eps of the untargeted tables; each with images that were made
    on the other classifiers, too. What is there already is kept.

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


def _made_on(source: Model, x: Tensor, y: Tensor, eps: float, norm: str, seed: int) -> Tensor:
    """Return images that are as far on the other side as another model can be driven."""
    ball: Any = {"eps": eps, "norm": norm}
    attack = attacks.PGD(loss="margin", steps=40, step_size=eps / 10, keep="last", **ball)
    return attack(engine.prepare(source), x, y, seed=seed)
