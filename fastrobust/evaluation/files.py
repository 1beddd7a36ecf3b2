"""The honest number beside a table's: what an evaluation leaves of a run's classifiers."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..utils.errors import StoreError
from ..utils.stats import Rate
from ..utils.text import slug
from .evaluation import Evaluation


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


def as_json(found: Evaluation) -> dict[str, Any]:
    """Return everything but the images as plain values."""
    return {
        **found.facts,
        "robust_accuracy": found.robust_accuracy,
        "interval": list(found.interval),
        "clean_accuracy": found.clean_accuracy,
        "count": len(found.broken),
        "believable": found.believable,
        "contributions": [asdict(one) for one in found.contributions],
        "checks": [asdict(check) for check in found.checks],
        "evaluations": int(found.queries.sum()),
        "seconds": round(sum(one.seconds for one in found.contributions), 3),
        "correct": found.correct.tolist(),
        "broken_by": found.broken_by.tolist(),
        "queries": found.queries.tolist(),
    }


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
