"""The work of a sweep: the cells of a plan, their keys, and which of them are measured together."""

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from .._version import __version__
from ..data import DataSet
from ..engine.prepared import prepare
from ..models import checkpoint
from ..runs.context import RunContext
from ..runs.folder import FORMAT_VERSION, IMAGES_KEPT, RunFolder
from ..runs.plan import Cell, Plan
from .options import SweepOptions
from .testbed import Testbed


class Task(NamedTuple):
    """A cell with all that defines its result, and the key that follows from it.

    Attributes:
        cell: The cell.
        key: Name of its files in the run folder.
        description: All that defines its result.
        first_success: Its searches may end at their first success.
        keep: Number of its adversarial images to keep.
    """

    cell: Cell
    key: str
    description: dict[str, Any]
    first_success: bool
    keep: int


class SweepWork(NamedTuple):
    """All that a process needs to measure the cells of a plan.

    Attributes:
        folder: The run folder.
        tasks: Every cell, in the order of the plan.
        units: The cells that are measured, in groups; one process does a unit, in one piece.
        testbeds: Classifier and images, by the classifier's name.
        options: What the cells of a unit share.
        total: Number of images under attack, of all cells together.
    """

    folder: RunFolder
    tasks: list[Task]
    units: list[list[Task]]
    testbeds: dict[str, Testbed]
    options: SweepOptions
    total: int


# A later start may have other cells or other software: each cell's key identifies its result.
_MAY_CHANGE = ("cells", "device", "versions")


def load_work(context: RunContext, options: SweepOptions) -> SweepWork:
    """Load what a plan needs, and claim the run folder for it."""
    plan, test = context.plan, context.load_data(("test",))
    testbeds, models = {}, {}
    for name in plan.models:
        path = context.checkpoint_path(name)
        if not path.exists():
            raise FileNotFoundError(
                f"{path} must hold the classifier {name}, but is missing; "
                "train it with 'fastrobust train', or let 'fastrobust paper' do all"
            )
        x, y = test.x_test[: plan.limit], test.y_test[: plan.limit]
        testbeds[name] = Testbed(
            model=prepare(checkpoint.load(path, device=context.device), plan.precision),
            x=x.to(context.device),
            y=y.to(context.device),
            num_classes=test.num_classes,
            batch=min(plan.batch, len(x)),
            seed=plan.seed,
        )
        models[name] = checkpoint.read_facts(path)
    tasks = tasks_of(plan, test, testbeds, models, options)
    folder = RunFolder(context.out_dir)
    folder.start(_run_facts(context, tasks, test, models), may_change=_MAY_CHANGE)
    units = units_of(tasks)
    count = sum(visits(unit) for unit in units)
    count += sum(task.cell.source is not None for task in tasks)
    total = count * len(test.y_test[: plan.limit])
    return SweepWork(folder, tasks, units, testbeds, options, total)


def identity(cell: Cell, model: str | None) -> tuple[object, ...]:
    """Return what the adversarial images of a cell depend on, if `model` is attacked."""
    return cell.attack, model, cell.targeted, cell.labels


def group_of(cell: Cell) -> str | None:
    """Return the attack that the cells of a group share: its repr without what may vary."""
    attack: Any = cell.parsed_attack
    if attack is None:
        return None
    return repr(replace(attack, **{name: 1 for name in (attack.per_row, attack.prefix) if name}))


def may_stop_early(cell: Cell, testbed: Testbed) -> bool:
    """Whether a cell's searches may end at their first success, which changes only distances."""
    attack = cell.parsed_attack
    if attack is None or cell.source is not None or cell.distances:
        return False
    return attack.per_row == "initial_const" and attack.tests_decision(testbed.model.head)


def tasks_of(
    plan: Plan,
    test: DataSet,
    testbeds: Mapping[str, Testbed],
    models: Mapping[str, Any],
    options: SweepOptions,
) -> list[Task]:
    """Return a task per cell. Cells of two tables that measure the same have the same key."""
    images = len(test.y_test[: plan.limit])
    sources = {identity(cell, cell.source) for cell in plan.cells if cell.source}
    slow = {identity(cell, cell.model) for cell in plan.cells if cell.distances} | sources

    def task(cell: Cell) -> Task:
        made = identity(cell, cell.source or cell.model)
        fast = made not in slow and may_stop_early(cell, testbeds[cell.model])
        description = {
            "format_version": FORMAT_VERSION,
            "attack": cell.attack,
            "targeted": cell.targeted,
            "labels": cell.labels,
            "model": cell.model,
            "weights_digest": models[cell.model]["weights_digest"],
            "data_set": plan.data_set,
            "data_digest": test.digest,
            "images": images,
            "batch": min(plan.batch, images),
            "seed": plan.seed,
            "first_success": fast and options.first_success,
            "images_kept": images if made in sources else min(images, IMAGES_KEPT),
        }
        if plan.precision != "fp32":
            description["precision"] = plan.precision
        name = f"{cell.attack or 'clean'} {cell.model}"
        if cell.source is not None:
            description["source"] = cell.source
            description["source_digest"] = models[cell.source]["weights_digest"]
            name = f"{cell.attack} {cell.source} on {cell.model}"
        key = cell_key(name, description)
        return Task(cell, key, description, fast, description["images_kept"])

    return [task(cell) for cell in plan.cells]


def cell_key(name: str, description: Mapping[str, Any]) -> str:
    """Return the file name of a cell: a readable name, then a digest of all that defines it.

    >>> cell_key("BIM(eps=0.1) R:TANH:MSE", {"seed": 0})
    'bim-eps-0.1-r-tanh-mse-bd048884'
    """
    words = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")[:80]
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def units_of(tasks: Iterable[Task]) -> list[list[Task]]:
    """Group the tasks that share batches, and the probes of one bisection; leave transfers out."""
    units: dict[tuple[object, ...], list[Task]] = {}
    seen = set()
    for task in tasks:
        cell = task.cell
        if cell.source is not None or (task.key in seen and not cell.probe):
            continue
        seen.add(task.key)
        # Clean images have no attack, and a unit of their own.
        group = group_of(cell) or task.key
        column = (cell.table, cell.column) if cell.probe else None
        key = (cell.model, group, cell.targeted, cell.labels, task.first_success, task.keep, column)
        units.setdefault(key, []).append(task)
    return list(units.values())


def visits(unit: list[Task]) -> int:
    """Return the number of cells of a unit that are measured, at most if it is a bisection."""
    return len(unit).bit_length() if unit[0].cell.probe else len(unit)


def _run_facts(
    context: RunContext, tasks: list[Task], test: DataSet, models: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of run.json."""
    plan = context.plan.to_json()
    del plan["cells"]
    return {
        "plan": plan,
        "data": {
            "name": test.name,
            "digest": test.digest,
            "images": len(test.y_test[: context.plan.limit]),
            "num_classes": test.num_classes,
            "class_names": test.class_names,
        },
        "models": models,
        "device": str(context.device),
        "versions": {
            "fastrobust": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "cells": [{**asdict(task.cell), "key": task.key} for task in tasks],
    }
