"""The work of a sweep: every cell with all that defines it, and which are done in one piece."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..data import DataSet
from ..runs.folder import FORMAT_VERSION, IMAGES_KEPT, RunFolder, cell_key
from ..runs.plan import Cell, Plan
from .measure import may_stop_early, rule_of
from .rows import Savings
from .testbed import Subject


class Task(NamedTuple):
    """A cell with all that defines its result, and the name that follows from it.

    `first_success` lets its searches end at their first success; `keep` images of it are kept.
    """

    cell: Cell
    key: str
    description: dict[str, Any]
    first_success: bool
    keep: int


class Work(NamedTuple):
    """All that there is to do; a unit is done by one process, in one piece."""

    folder: RunFolder
    tasks: list[Task]
    units: list[list[Task]]
    subjects: dict[str, Subject]
    savings: Savings
    total: int


def tasks_of(
    plan: Plan,
    held_out: DataSet,
    subjects: Mapping[str, Subject],
    models: Mapping[str, Any],
    savings: Savings,
) -> list[Task]:
    """Name every cell by what is measured, not by where it is shown: two tables may share one."""
    images = len(held_out.y_test[: plan.limit])

    def identity(cell: Cell, model: str) -> tuple[object, ...]:
        return (cell.attack, model, cell.targeted, cell.labels)

    sources = {identity(cell, cell.source) for cell in plan.cells if cell.source}
    slow = {identity(cell, cell.model) for cell in plan.cells if cell.distances} | sources

    def task(cell: Cell) -> Task:
        made_on = cell.source or cell.model
        own = identity(cell, made_on)
        fast = own not in slow and may_stop_early(cell, subjects[cell.model])
        description = {
            "format_version": FORMAT_VERSION,
            "attack": cell.attack,
            "targeted": cell.targeted,
            "labels": cell.labels,
            "model": cell.model,
            "weights_digest": models[cell.model]["weights_digest"],
            "data_set": plan.data_set,
            "data_digest": held_out.digest,
            "images": images,
            "batch": min(plan.batch, images),
            "seed": plan.seed,
            "first_success": fast and savings.first_success,
            "images_kept": images if own in sources else min(images, IMAGES_KEPT),
        }
        if plan.precision != "fp32":
            description["precision"] = plan.precision
        words = f"{cell.attack or 'clean'} {cell.model}"
        if cell.source is not None:
            description["source"] = cell.source
            description["source_digest"] = models[cell.source]["weights_digest"]
            words = f"{cell.attack} {cell.source} on {cell.model}"
        key = cell_key(words, description)
        return Task(cell, key, description, fast, description["images_kept"])

    return [task(cell) for cell in plan.cells]


def units_of(tasks: Iterable[Task]) -> list[list[Task]]:
    """Put tasks together that share slots, and the probes of one search; leave transfers out."""
    units: dict[tuple[object, ...], list[Task]] = {}
    seen = set()
    for task in tasks:
        cell = task.cell
        if cell.source is not None or (task.key in seen and not cell.probe):
            continue
        seen.add(task.key)
        # Clean images have no rule, and a unit of their own.
        rule = rule_of(cell) or task.key
        place = (cell.table, cell.column) if cell.probe else None
        key = (cell.model, rule, cell.targeted, cell.labels, task.first_success, task.keep, place)
        units.setdefault(key, []).append(task)
    return list(units.values())


def visits(unit: list[Task]) -> int:
    """Return how many cells of a unit are measured, of a search as many as it may need."""
    return len(unit).bit_length() if unit[0].cell.probe else len(unit)
