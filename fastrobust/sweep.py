"""Runs a plan: every cell that is not in the run folder yet, one after the other.

A cell that fails is written down and the others go on; a kill loses the cell that was running.
"""

import os
import platform
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch

from . import __version__, checkpoint, data
from .data import DataSet
from .jobs import helpers_on
from .measure import Subject, measure
from .plans import Cell, Plan
from .progress import track
from .store import FORMAT_VERSION, RunFolder, cell_key
from .trained import checkpoint_path


@dataclass
class Outcome:
    """What one start of a sweep did.

    Attributes:
        measured: Number of cells measured now.
        reused: Number of cells that were there before.
        failed: One line per cell that failed, naming it.
    """

    measured: int = 0
    reused: int = 0
    failed: list[str] = field(default_factory=list)


def run(
    plan: Plan,
    out_dir: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    jobs: int = 1,
) -> Outcome:
    """Measure every cell of `plan` that `out_dir` does not hold yet.

    The classifiers are the checkpoints under ``<out_dir>/models/``. Several processes may work on
    one folder, and a run that was killed goes on where it stopped, with the same results.

    Args:
        plan: What to measure.
        out_dir: The run folder.
        data_root: Where the data files are, as ``data.load`` takes it.
        device: Where to compute.
        jobs: Number of processes that share the cells; more than one start new interpreters, so a
            script that asks for them needs its ``if __name__ == "__main__"``.

    Raises:
        FileNotFoundError: A checkpoint or a data file is missing.
        StoreError: The folder holds another run, or a damaged run.json.
    """
    work = _prepare(plan, out_dir, data_root, device)
    if jobs == 1:
        return _measure_all(*work)
    folder, tasks, subjects = work
    before = {task.key for task in tasks if folder.has(task.key)}
    places = list(range(len(tasks)))
    helpers = helpers_on(jobs, _help, plan, out_dir, data_root, device, places)
    own = _measure_all(folder, tasks[::jobs], subjects)
    for helper in helpers:
        helper.join()
    # What the helpers did is read back, and what one of them left undone is done here.
    rest = _measure_all(folder, [t for n, t in enumerate(tasks) if n % jobs], subjects)
    done = {task.key for task in tasks if folder.has(task.key)}
    return Outcome(len(done - before), len(done & before), own.failed + rest.failed)


def _help(
    plan: Plan,
    out_dir: str | os.PathLike[str],
    data_root: str | os.PathLike[str] | None,
    device: str | torch.device,
    places: Sequence[int],
) -> None:
    """Measure the cells at these places of the plan, and say nothing."""
    folder, tasks, subjects = _prepare(plan, out_dir, data_root, device)
    with open(os.devnull, "w") as silence:
        _measure_all(folder, [tasks[place] for place in places], subjects, silence)


def _prepare(
    plan: Plan,
    out_dir: str | os.PathLike[str],
    data_root: str | os.PathLike[str] | None,
    device: str | torch.device,
) -> tuple[RunFolder, list["_Task"], dict[str, Subject]]:
    """Load what a plan needs, and claim the run folder for it."""
    held_out = data.load(plan.data_set, data_root, splits=("test",))
    subjects, models = {}, {}
    for name in plan.models:
        path = checkpoint_path(out_dir, name)
        if not path.exists():
            raise FileNotFoundError(
                f"{path} must hold the classifier {name}, but is missing; "
                "train it with 'fastrobust train', or let 'fastrobust paper' do all"
            )
        subjects[name] = _subject(plan, held_out, path, device)
        models[name] = checkpoint.read_facts(path)
    tasks = [_task(cell, plan, held_out, models[cell.model]) for cell in plan.cells]
    folder = RunFolder(out_dir)
    folder.start(_run_facts(plan, tasks, held_out, models, device), may_change=_MAY_CHANGE)
    return folder, tasks, subjects


class _Task(NamedTuple):
    """A cell with all that defines its result, and the name that follows from it."""

    cell: Cell
    key: str
    description: dict[str, Any]


# A later start may show other cells, or go on with other software: a cell's key says what it is.
_MAY_CHANGE = ("cells", "device", "versions")


def _subject(plan: Plan, held_out: DataSet, path: Path, device: str | torch.device) -> Subject:
    x, y = held_out.x_test[: plan.limit], held_out.y_test[: plan.limit]
    return Subject(
        model=checkpoint.load(path, device=device),
        x=x.to(device),
        y=y.to(device),
        num_classes=held_out.num_classes,
        batch=min(plan.batch, len(x)),
        seed=plan.seed,
    )


def _task(cell: Cell, plan: Plan, held_out: DataSet, model: Mapping[str, Any]) -> _Task:
    """Name a cell by what is measured, not by where it is shown: two tables may share one."""
    images = len(held_out.y_test[: plan.limit])
    description = {
        "format_version": FORMAT_VERSION,
        "attack": cell.attack,
        "targeted": cell.targeted,
        "labels": cell.labels,
        "model": cell.model,
        "weights_digest": model["weights_digest"],
        "data_set": plan.data_set,
        "data_digest": held_out.digest,
        "images": images,
        "batch": min(plan.batch, images),
        "seed": plan.seed,
    }
    return _Task(cell, cell_key(f"{cell.attack or 'clean'} {cell.model}", description), description)


def _run_facts(
    plan: Plan,
    tasks: list[_Task],
    held_out: DataSet,
    models: Mapping[str, Any],
    device: str | torch.device,
) -> dict[str, Any]:
    """Return the content of run.json."""
    header = plan.to_json()
    del header["cells"]
    return {
        "plan": header,
        "data": {
            "name": held_out.name,
            "digest": held_out.digest,
            "images": len(held_out.y_test[: plan.limit]),
            "num_classes": held_out.num_classes,
            "class_names": held_out.class_names,
        },
        "models": models,
        "device": str(device),
        "versions": {
            "fastrobust": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "cells": [{**asdict(task.cell), "key": task.key} for task in tasks],
    }


def _measure_all(
    folder: RunFolder,
    tasks: list[_Task],
    subjects: Mapping[str, Subject],
    stream: TextIO | None = None,
) -> Outcome:
    outcome = Outcome()
    total = sum(len(subjects[task.cell.model].x) for task in tasks)
    with track(total, "attacked images", stream) as progress:
        for cell, key, description in tasks:
            words = f"{cell.attack or 'clean images'} on {cell.model}"
            progress.note(words)
            subject = subjects[cell.model]
            try:
                if folder.has(key):
                    folder.read(key)  # raises on a damaged file: it is named, never trusted
                    outcome.reused += 1
                    progress.advance(len(subject.x))
                    continue
                found = measure(cell, subject, progress.advance)
                folder.write(key, found.rows, {**description, **found.facts}, found.images)
                outcome.measured += 1
            except Exception as error:  # one cell must not cost the others
                reason = f"{type(error).__name__}: {error}"
                outcome.failed.append(f"{words}: {reason}")
                folder.note_failure(
                    key,
                    attack=cell.attack,
                    model=cell.model,
                    error=reason,
                    traceback=traceback.format_exc(),
                )
    return outcome
