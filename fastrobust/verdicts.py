"""The honest number beside a table's: what an evaluation leaves of a run's classifiers."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import StoreError
from .recipes import slug
from .stats import Rate


@dataclass(frozen=True)
class Verdict:
    """What :func:`fastrobust.evaluate` left of one classifier.

    Attributes:
        model: Its name.
        eps: Radius in L-infinity.
        budget: How hard it was tried.
        rate: The robust accuracy.
        failed: Names of the checks that say not to believe it.
        evaluations: Forwards and backwards.
        seconds: Of the attacks.
    """

    model: str
    eps: float
    budget: str
    rate: Rate
    failed: tuple[str, ...]
    evaluations: int
    seconds: float


def place(out_dir: str | os.PathLike[str], model: str, eps: float) -> Path:
    """Return where a run folder keeps the evaluation of a classifier.

    >>> place("runs/mine", "R:TANH:MSE", 0.1).as_posix()
    'runs/mine/evaluations/r-tanh-mse-0.1'
    """
    return Path(out_dir) / "evaluations" / f"{slug(model)}-{eps:g}"


def require(folder: Path, wanted: dict[str, Any]) -> None:
    """Refuse an evaluation in `folder` whose facts are not those `wanted`.

    Raises:
        StoreError: One of them is another; the message says which.
    """
    content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    for name, value in wanted.items():
        if content.get(name) != value:
            raise StoreError(
                f"{folder} must hold an evaluation of {name} {value}, got {content.get(name)}; "
                "delete it, or give another folder"
            )


def read(out_dir: str | os.PathLike[str], models: tuple[str, ...]) -> list[Verdict]:
    """Return the evaluations in a run folder, by classifier and radius.

    Raises:
        StoreError: A file is no evaluation.
    """
    names = {slug(model): model for model in models}
    found = []
    for path in (Path(out_dir) / "evaluations").glob("*/evaluation.json"):
        model = names.get(path.parent.name.rpartition("-")[0])
        if model is None:
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            count = int(content["count"])
            found.append(
                Verdict(
                    model=model,
                    eps=content["eps"],
                    budget=content["budget"],
                    rate=Rate(round(content["robust_accuracy"] * count), count),
                    failed=tuple(c["name"] for c in content["checks"] if c["verdict"] == "fail"),
                    evaluations=content["evaluations"],
                    seconds=content["seconds"],
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} must hold an evaluation, got: {error!r}") from error
    return sorted(found, key=lambda one: (models.index(one.model), one.eps))
