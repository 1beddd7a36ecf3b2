"""What an evaluation says: sentences, tables, a page, a JSON and the images themselves."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import torch
from torch import Tensor

from ..evaluation.evaluation import Evaluation
from ..evaluation.files import as_json
from ..runs.folder import save_npz
from ..utils import atomic
from ..utils.text import TextTable
from .galleries import Picture, png

NORMS = {"linf": "L-infinity", "l2": "L2"}
_SHOWN = 10  # images of the page, one per class at most


@dataclass(frozen=True)
class Written:
    """Where the files of an evaluation are."""

    page: Path
    json: Path
    images: Path


def sentences(found: Evaluation) -> list[str]:
    """Return what there is to say first: the number, and whether to believe it."""
    low, high = found.interval
    ball = f"{NORMS[found.facts['norm']]} {found.facts['eps']:g}"
    said = [
        f"At most {found.robust_accuracy:.1%} [{low:.1%}, {high:.1%}] of {len(found.broken)} "
        f"images keep their label within {ball}; without an attack {found.clean_accuracy:.1%} do."
    ]
    if found.facts["averaged"]:
        said.append("The model is random: attacks and decisions are on the mean of 8 answers.")
    if not found.checks:
        return [*said, "Nothing was checked: whether to believe it is open."]
    fails, warnings = (
        [check.name for check in found.checks if check.verdict == verdict]
        for verdict in ("fail", "warn")
    )
    if fails:
        said.append(f"Do not believe it: {_count(fails, 'check fails', 'checks fail')}.")
    else:
        said.append(f"None of {len(found.checks)} checks fails.")
    if warnings:
        said.append(f"Look at {_count(warnings, 'warning', 'warnings')}.")
    return said


def attack_table(found: Evaluation) -> TextTable:
    """Return a row per attack, in the order in which they were run."""
    rows, standing = [], int(found.correct.sum())
    total = len(found.broken)
    rows.append(("none", str(total), str(total - standing), f"{standing / total:.3f}", "", ""))
    for one in found.contributions:
        standing -= one.broke
        rows.append(
            (
                one.name,
                str(one.tried),
                str(one.broke),
                f"{standing / total:.3f}",
                f"{one.evaluations:,}",
                f"{one.seconds:.1f}",
            )
        )
    return TextTable(
        "Attacks",
        "Each is run on the images that still stand. An evaluation of the network is a forward or "
        "a backward of one image.",
        ("attack", "tried", "broke", "accuracy left", "evaluations", "seconds"),
        tuple(rows),
    )


def check_table(found: Evaluation) -> TextTable:
    """Return a row per check; advice stands where there is something to do."""
    rows = tuple(
        (
            check.verdict,
            check.name,
            check.found,
            check.advice if check.verdict in ("warn", "fail") else "",
        )
        for check in found.checks
    )
    return TextTable(
        "Checks",
        "A check that fails says that the number above is not the model's robustness.",
        ("", "check", "found", "advice"),
        rows,
    )


def tables(found: Evaluation) -> list[TextTable]:
    """Return the tables of an evaluation for a terminal."""
    return [attack_table(found), *([check_table(found)] if found.checks else [])]


def page(found: Evaluation, x: Tensor, y: Tensor, title: str) -> str:
    """Return the self-contained HTML page of an evaluation of images x (N, C, H, W)."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fastrobust.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    attacks = attack_table(found)
    return environment.get_template("evaluation.html.j2").render(
        title=title,
        found=found,
        sentences=sentences(found),
        attacks=attacks,
        checks=found.checks,
        check_table=check_table(found),
        pictures=_pictures(found, x, y),
    )


def write(
    found: Evaluation,
    x: Tensor,
    y: Tensor,
    out: str | os.PathLike[str],
    title: str,
) -> Written:
    """Write ``evaluation.html``, ``evaluation.json`` and ``evaluation.npz`` into a folder.

    Args:
        found: The evaluation.
        x: Its images (N, C, H, W).
        y: Their labels (N,).
        out: The folder.
        title: What was evaluated, in a few words.
    """
    root = Path(out)
    written = Written(*(root / f"evaluation.{kind}" for kind in ("html", "json", "npz")))
    text = page(found, x, y, title)
    atomic.replace(written.page, lambda path: path.write_text(text, encoding="utf-8"))
    content = json.dumps({"title": title, **as_json(found)}, indent=1) + "\n"
    atomic.replace(written.json, lambda path: path.write_text(content, encoding="utf-8"))
    columns = {
        "adversarial": found.adv, "label": y, "decision": found.decision, "broken": found.broken,
    }  # fmt: skip
    save_npz(written.images, {name: _numpy(column) for name, column in columns.items()})
    return written


def _pictures(found: Evaluation, x: Tensor, y: Tensor) -> list[tuple[Picture, Picture]]:
    """Return the first image of every class that an attack broke, clean and broken."""
    if x.dim() != 4 or x.shape[1] not in (1, 3) or x.min() < 0 or x.max() > 1:
        return []
    pairs = []
    for label in torch.unique(y)[:_SHOWN].tolist():
        places = ((y == label) & (found.broken_by >= 0)).nonzero().flatten()
        if len(places):
            place = int(places[0])
            name, other = str(label), str(int(found.decision[place]))
            pairs.append(
                (
                    Picture(png(_numpy(x[place])), name, name, False),
                    Picture(png(_numpy(found.adv[place])), name, other, True),
                )
            )
    return pairs


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def _count(names: list[str], one: str, many: str) -> str:
    return f"{len(names)} {one if len(names) == 1 else many} ({', '.join(names)})"
