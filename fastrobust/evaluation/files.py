"""Writes and reads ``evaluation.json``: the only module that knows its fields."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..utils import atomic
from ..utils.errors import StoreError
from ..utils.stats import Rate
from ..utils.text import slug
from .results import Check, Contribution, Evaluation

_NAME = "evaluation.json"
_DERIVED = (  # written for other readers; an Evaluation computes them
    "robust_accuracy", "interval", "clean_accuracy", "count", "believable", "evaluations",
    "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class StoredEvaluation:
    """What :func:`fastrobust.evaluate` found for one classifier of a run.

    Attributes:
        model: Name of the classifier.
        eps: Radius in L-infinity.
        budget: Budget of the evaluation.
        rate: Robust accuracy.
        failed: Names of the checks that failed.
        evaluations: Forwards and backwards of one image.
        seconds: Time of the attacks.
    """

    model: str
    eps: float
    budget: str
    rate: Rate
    failed: tuple[str, ...]
    evaluations: int
    seconds: float


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything but the images as plain values."""
    return {
        **evaluation.facts,
        "robust_accuracy": evaluation.robust_accuracy,
        "interval": list(evaluation.interval),
        "clean_accuracy": evaluation.clean_accuracy,
        "count": len(evaluation.broken),
        "believable": evaluation.believable,
        "contributions": [asdict(contribution) for contribution in evaluation.contributions],
        "checks": [asdict(check) for check in evaluation.checks],
        "evaluations": evaluation.evaluations,
        "seconds": round(evaluation.seconds, 3),
        "correct": evaluation.correct.tolist(),
        "broken_by": evaluation.broken_by.tolist(),
        "queries": evaluation.queries.tolist(),
    }


def write(evaluation: Evaluation, folder: Path, title: str) -> Path:
    """Write everything but the images into a folder; return the path of the file."""
    text = json.dumps({"title": title, **as_json(evaluation)}, indent=1) + "\n"
    atomic.replace(folder / _NAME, lambda path: path.write_text(text, encoding="utf-8"))
    return folder / _NAME


def load(folder: Path) -> tuple[Evaluation, str]:
    """Return the evaluation in a folder without its images, and its title.

    Its `adv` has shape (0,), its `decision` is -1.

    Raises:
        StoreError: There is no evaluation in the folder.
    """
    content = _read(folder / _NAME)
    try:
        columns = ("correct", "broken_by", "queries")
        correct, broken_by, queries = (torch.tensor(content.pop(name)) for name in columns)
        contributions, checks = content.pop("contributions"), content.pop("checks")
        title = content.pop("title")
        facts = {name: value for name, value in content.items() if name not in _DERIVED}
        evaluation = Evaluation(
            adv=torch.empty(0),
            decision=torch.full_like(broken_by, -1),
            correct=correct,
            broken=~correct | (broken_by >= 0),
            broken_by=broken_by,
            queries=queries,
            contributions=tuple(Contribution(**part) for part in contributions),
            checks=tuple(
                Check(**{**fields, "images": tuple(fields["images"])}) for fields in checks
            ),
            facts=facts,
        )
        return evaluation, title
    except (ValueError, KeyError, TypeError) as error:
        raise _no_evaluation(folder / _NAME, error) from error


def holds(folder: Path, wanted: dict[str, Any]) -> bool:
    """Return whether a folder holds an evaluation with these facts.

    Raises:
        StoreError: It holds one with other facts; the message says which.
    """
    if not (folder / _NAME).exists():
        return False
    content = _read(folder / _NAME)
    for name, value in wanted.items():
        if content.get(name) != value:
            raise StoreError(
                f"{folder} must hold an evaluation of {name} {value}, got {content.get(name)}; "
                "delete it, or give another folder"
            )
    return True


def read(out_dir: str | os.PathLike[str], models: tuple[str, ...]) -> list[StoredEvaluation]:
    """Return the evaluations in a run folder, by classifier and radius.

    Raises:
        StoreError: A file is no evaluation.
    """
    names = {slug(model): model for model in models}
    stored = []
    for path in (Path(out_dir) / "evaluations").glob(f"*/{_NAME}"):
        model = names.get(path.parent.name.rpartition("-")[0])
        if model is not None:
            stored.append(_stored(path, model))
    return sorted(stored, key=lambda one: (models.index(one.model), one.eps))


def _stored(path: Path, model: str) -> StoredEvaluation:
    content = _read(path)
    try:
        count = int(content["count"])
        return StoredEvaluation(
            model=model,
            eps=content["eps"],
            budget=content["budget"],
            rate=Rate(round(content["robust_accuracy"] * count), count),
            failed=tuple(c["name"] for c in content["checks"] if c["verdict"] == "fail"),
            evaluations=content["evaluations"],
            seconds=content["seconds"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _no_evaluation(path, error) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_evaluation(path, error) from error
    if not isinstance(content, dict):
        raise _no_evaluation(path, content)
    return content


def _no_evaluation(path: Path, what: object) -> StoreError:
    return StoreError(f"{path} must hold an evaluation, got: {what!r}")
