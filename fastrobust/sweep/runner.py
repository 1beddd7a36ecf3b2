"""Runs a plan: every cell that is not in the run folder yet.

Cells that share an attack's rule share its slots. A cell is written when its last row has come
home; one that fails is written down and the others go on; a kill loses what was running.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import data
from .._version import __version__
from ..data import DataSet
from ..engine.prepared import prepare
from ..models import checkpoint
from ..runs.folder import RunFolder, checkpoint_path
from ..runs.plan import Plan
from ..utils.processes import Turns, helpers_on
from ..utils.progress import track
from .measure import switched_off
from .tasks import Task, Work, tasks_of, units_of, visits
from .testbed import Subject
from .worker import Worker


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
    without: Sequence[str] = (),
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
        without: Savings to do without: ``"first-success"``, ``"shared-const"``, ``"prefixes"``,
            ``"clean-gradient"``. None of them changes a rate; the first spares distances.

    Raises:
        FileNotFoundError: A checkpoint or a data file is missing.
        StoreError: The folder holds another run, or a damaged run.json.
        ValueError: There is no saving of that name, or the plan's precision does not suit a
            classifier or this machine.
    """
    work = _prepare(plan, out_dir, data_root, device, without)
    turns = Turns()
    before = {task.key for task in work.tasks if work.folder.has(task.key)}
    helpers = helpers_on(jobs, _help, plan, out_dir, data_root, device, without, turns)
    with track(work.total, "attacked images") as progress:
        own = Worker(work, progress)
        for unit in turns.of(work.units):
            own.do(unit)
        for helper in helpers:
            helper.join()
        # What the helpers did is read back, and what one of them left undone is done here.
        for unit in work.units:
            own.do(unit)
        for task in work.tasks:
            if task.cell.source is not None:
                own.transfer(task)
    done = {task.key for task in work.tasks if work.folder.has(task.key)}
    reused = (done & before) - own.failed.keys()
    return Outcome(len(done - before), len(reused), list(own.failed.values()))


def _help(
    plan: Plan,
    out_dir: str | os.PathLike[str],
    data_root: str | os.PathLike[str] | None,
    device: str | torch.device,
    without: Sequence[str],
    turns: Turns,
) -> None:
    """Measure cells, and say nothing."""
    work = _prepare(plan, out_dir, data_root, device, without)
    with open(os.devnull, "w") as silence, track(work.total, "", silence) as progress:
        worker = Worker(work, progress)
        for unit in turns.of(work.units):
            worker.do(unit)


def _prepare(
    plan: Plan,
    out_dir: str | os.PathLike[str],
    data_root: str | os.PathLike[str] | None,
    device: str | torch.device,
    without: Sequence[str],
) -> Work:
    """Load what a plan needs, and claim the run folder for it."""
    savings = switched_off(without)
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
    tasks = tasks_of(plan, held_out, subjects, models, savings)
    folder = RunFolder(out_dir)
    folder.start(_run_facts(plan, tasks, held_out, models, device), may_change=_MAY_CHANGE)
    units = units_of(tasks)
    count = sum(visits(unit) for unit in units)
    count += sum(task.cell.source is not None for task in tasks)
    images = len(held_out.y_test[: plan.limit])
    return Work(folder, tasks, units, subjects, savings, count * images)


# A later start may show other cells, or go on with other software: a cell's key says what it is.
_MAY_CHANGE = ("cells", "device", "versions")


def _subject(plan: Plan, held_out: DataSet, path: Path, device: str | torch.device) -> Subject:
    x, y = held_out.x_test[: plan.limit], held_out.y_test[: plan.limit]
    return Subject(
        model=prepare(checkpoint.load(path, device=device), plan.precision),
        x=x.to(device),
        y=y.to(device),
        num_classes=held_out.num_classes,
        batch=min(plan.batch, len(x)),
        seed=plan.seed,
    )


def _run_facts(
    plan: Plan,
    tasks: list[Task],
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
