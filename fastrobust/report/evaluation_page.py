"""An evaluation as sentences, tables and a page."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..evaluation import files
from ..evaluation.results import Evaluation
from ..runs.folder import save_npz
from ..utils import atomic
from ..utils.text import TextTable
from . import pages
from .pictures import Picture, png

NORMS = {"linf": "L-infinity", "l2": "L2"}
_SHOWN = 10  # images of the page, one per class at most


@dataclass(frozen=True)
class EvaluationFiles:
    """Where the files of an evaluation are."""

    page: Path
    json: Path
    images: Path


def sentences(evaluation: Evaluation) -> list[str]:
    """Return the robust accuracy and whether to believe it, in sentences."""
    low, high = evaluation.interval
    ball = f"{NORMS[evaluation.facts['norm']]} {evaluation.facts['eps']:g}"
    lines = [
        f"Robust accuracy within {ball}: at most {evaluation.robust_accuracy:.1%} "
        f"[{low:.1%}, {high:.1%}] of {len(evaluation.broken)} images. Clean accuracy: "
        f"{evaluation.clean_accuracy:.1%}."
    ]
    if evaluation.facts["averaged"]:
        lines.append("The model is random: attacks and decisions use the mean of 8 calls.")
    if not evaluation.checks:
        return [*lines, "No checks were run."]
    fails, warnings = evaluation.names("fail"), evaluation.names("warn")
    if fails:
        lines.append(f"Do not believe it: {_count(fails, 'check fails', 'checks fail')}.")
    else:
        lines.append(f"None of {len(evaluation.checks)} checks fails.")
    if warnings:
        lines.append(f"Look at {_count(warnings, 'warning', 'warnings')}.")
    return lines


def attack_table(evaluation: Evaluation) -> TextTable:
    """Return a row per attack, in the order in which they ran."""
    total, left = len(evaluation.broken), int(evaluation.correct.sum())
    rows = [("none", str(total), str(total - left), f"{left / total:.3f}", "", "")]
    for part in evaluation.contributions:
        left -= part.broke
        counts = part.name, str(part.tried), str(part.broke), f"{left / total:.3f}"
        rows.append((*counts, f"{part.evaluations:,}", f"{part.seconds:.1f}"))
    return TextTable(
        "Attacks",
        "Each attack runs on the images that no earlier one broke. An evaluation of the network is "
        "a forward or a backward pass of one image.",
        ("attack", "tried", "broke", "robust accuracy", "evaluations", "seconds"),
        tuple(rows),
    )


def check_table(evaluation: Evaluation) -> TextTable:
    """Return a row per check, with advice after a warning or a failure."""
    rows = (
        (check.verdict, check.name, check.found,
         check.advice if check.verdict in ("warn", "fail") else "")
        for check in evaluation.checks
    )  # fmt: skip
    return TextTable(
        "Checks",
        "If a check fails, the accuracy above should not be taken as the model's robustness.",
        ("", "check", "found", "advice"),
        tuple(rows),
    )


def tables(evaluation: Evaluation) -> list[TextTable]:
    """Return the tables of an evaluation for a terminal."""
    checks = [check_table(evaluation)] if evaluation.checks else []
    return [attack_table(evaluation), *checks]


def page(
    evaluation: Evaluation, title: str, pictures: Sequence[tuple[Picture, Picture]] = ()
) -> str:
    """Return the self-contained HTML page of an evaluation with some pairs of pictures."""
    return pages.render(
        "evaluation.html.j2",
        title=title,
        evaluation=evaluation,
        sentences=sentences(evaluation),
        attacks=attack_table(evaluation),
        check_table=check_table(evaluation),
        pictures=pictures,
    )


def write(
    evaluation: Evaluation, x: Tensor, y: Tensor, out: str | os.PathLike[str], title: str
) -> EvaluationFiles:
    """Write ``evaluation.html``, ``evaluation.json`` and ``evaluation.npz`` into a folder.

    Args:
        evaluation: The evaluation.
        x: Its images (N, C, H, W).
        y: Their labels (N,).
        out: The folder.
        title: What was evaluated, in a few words.
    """
    html, images = (Path(out) / f"evaluation.{kind}" for kind in ("html", "npz"))
    text = page(evaluation, title, _pictures(evaluation, x, y))
    atomic.replace(html, lambda path: path.write_text(text, encoding="utf-8"))
    columns = {
        "adversarial": evaluation.adv, "label": y, "decision": evaluation.decision,
        "broken": evaluation.broken,
    }  # fmt: skip
    save_npz(images, {name: column.detach().cpu().numpy() for name, column in columns.items()})
    return EvaluationFiles(html, files.write(evaluation, Path(out), title), images)


def _pictures(evaluation: Evaluation, x: Tensor, y: Tensor) -> list[tuple[Picture, Picture]]:
    """Return the first broken image of every class, clean and adversarial."""
    if x.dim() != 4 or x.shape[1] not in (1, 3) or x.min() < 0 or x.max() > 1:
        return []
    pairs = []
    for label in torch.unique(y)[:_SHOWN].tolist():
        rows = ((y == label) & (evaluation.broken_by >= 0)).nonzero().flatten()
        if len(rows):
            row, name = int(rows[0]), str(label)
            clean, adv = (png(images[row].detach().cpu().numpy()) for images in (x, evaluation.adv))
            decision = str(int(evaluation.decision[row]))
            pairs.append((Picture(clean, name, name, False), Picture(adv, name, decision, True)))
    return pairs


def _count(names: Sequence[str], singular: str, plural: str) -> str:
    word = singular if len(names) == 1 else plural
    return f"{len(names)} {word} ({', '.join(names)})"
