"""Reads a run folder and turns its rows into rates: the only source of a report's numbers."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation import files
from ..evaluation.files import StoredEvaluation
from ..paper import printed
from ..paper.columns import ASIDE
from ..runs.folder import RunFolder, StoredCell
from ..runs.plan import Cell, Plan
from ..utils.stats import Rate


@dataclass(frozen=True, eq=False)
class Result:
    """One measured cell.

    Attributes:
        cell: Its place in the plan.
        key: Its name in the run folder.
        rows: A numpy array (N,) per column of ``store.SCHEMA``.
        facts: Seconds, network evaluations and the full description.
        paper: The paper's number at the same place, None where it has none.
    """

    cell: Cell
    key: str
    rows: dict[str, np.ndarray]
    facts: dict[str, Any]
    paper: float | None

    @property
    def rate(self) -> Rate:
        """Success rate of a targeted attack, else accuracy against the true label."""
        return Rate.of(self.rows["success"] if self.cell.targeted else ~self.broken)

    @property
    def value(self) -> float:
        """The value of the cell's parameter, 0 without one."""
        return self.cell.value or 0.0

    @property
    def broken(self) -> np.ndarray:
        """Flags (N,): the decision is not the true label."""
        return self.rows["decision"] != self.rows["label"]

    @property
    def defended(self) -> float:
        """Share of the images that the attack did not break, targeted or not."""
        return 1 - self.rate.value if self.cell.targeted else self.rate.value

    @property
    def claims(self) -> Rate:
        """Share of the images on which the attack's own test reports success."""
        return Rate.of(self.rows["claimed"])

    @property
    def false_claims(self) -> Rate:
        """Share of the images on which it does and the attack did not succeed."""
        return Rate.of(self.rows["claimed"] & ~self.rows["success"])

    @property
    def first_success(self) -> bool:
        """Whether the attack stopped at its first success: its distances are not minimal."""
        return bool(self.facts.get("first_success", False))

    @property
    def disagreements(self) -> int:
        """Number of images on which the attack's own test and the decision differ."""
        return int((self.rows["claimed"] != self.rows["success"]).sum())

    @property
    def met(self) -> int:
        """Number of images whose clean decision is already the target."""
        return int((self.rows["clean"] == self.rows["target"]).sum())

    def median(self, norm: str) -> float | None:
        """Return the median ``"l2"`` or ``"linf"`` of the successes.

        None without any, and where the attack stopped at its first success.
        """
        if self.first_success:
            return None
        values = self.rows[norm][self.rows["success"]]
        return float(np.median(values)) if len(values) else None


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder as read.

    Attributes:
        folder: Where it is.
        facts: The content of run.json.
        plan: What was to be measured.
        results: What has been measured, in the plan's order.
        missing: Cells of the plan without a result; probes, of which a search leaves some out, are
            not counted.
        failures: Last failure of each cell of the plan that has none, as failures.jsonl has it.
        evaluations: Evaluations of its classifiers.
    """

    folder: RunFolder
    facts: dict[str, Any]
    plan: Plan
    results: tuple[Result, ...]
    missing: tuple[Cell, ...]
    failures: tuple[dict[str, Any], ...]
    evaluations: tuple[StoredEvaluation, ...] = ()

    def select(self, **wanted: object) -> Iterator[Result]:
        """Yield the results whose cells have these values in these fields."""
        for result in self.results:
            if all(getattr(result.cell, name) == value for name, value in wanted.items()):
                yield result

    def white_box(self, **wanted: object) -> Iterator[Result]:
        """Yield those of `select` that attack the classifier itself, on a table's grid.

        Transfers, the probes of a search and the tables aside are left out.
        """
        for result in self.select(source=None, probe=False, **wanted):
            if result.cell.attack is not None and result.cell.table not in ASIDE:
                yield result

    def twin(self, result: Result) -> Result | None:
        """Return the white-box result of a transfer: the same attack made on the victim itself.

        None where it is not measured, or `result` is no transfer.
        """
        cell = result.cell
        if cell.source is None:
            return None
        same = {name: getattr(cell, name) for name in ("model", "attack", "labels", "targeted")}
        return next(self.white_box(**same), None)

    def clean_accuracy(self, model: str) -> Rate | None:
        """Return a classifier's accuracy on the clean images, None before its first result."""
        for result in self.select(model=model):
            return Rate.of(result.rows["clean"] == result.rows["label"])
        return None


def read(out_dir: str | os.PathLike[str]) -> Run:
    """Read a run folder, finished or not.

    Raises:
        StoreError: The folder holds no run, or one of its files is damaged or foreign.
    """
    folder = RunFolder(out_dir)
    facts = folder.read_run()
    placed = [dict(entry) for entry in facts["cells"]]
    keys = [entry.pop("key") for entry in placed]
    plan = Plan.from_json({**facts["plan"], "cells": placed})
    stored: dict[str, StoredCell] = {}
    results, missing = [], []
    for cell, key in zip(plan.cells, keys, strict=True):
        if key not in stored and folder.has(key):
            stored[key] = folder.read(key)
        if key in stored:
            results.append(
                Result(cell, key, stored[key].rows, stored[key].facts, _printed(plan, cell))
            )
        elif not cell.probe:
            missing.append(cell)
    failures = tuple(record for record in folder.failures() if record["key"] in keys)
    evaluations = tuple(files.read(out_dir, plan.models))
    return Run(folder, facts, plan, tuple(results), tuple(missing), failures, evaluations)


def _printed(plan: Plan, cell: Cell) -> float | None:
    """Return the paper's number for a cell; it did not attack class scores."""
    if cell.view != "paper":
        return None
    return printed.lookup(cell.table, plan.known_as, cell.model, cell.column, cell.value)


def smallest_breaks(results: Iterable[Result]) -> np.ndarray:
    """Return, per image, the smallest Linf distance at which any of the attacks broke it.

    This is the worst case over attacks: 0 for an image that is wrong without attack, inf for one
    that no attack broke.

    Args:
        results: Untargeted results of one classifier over the same images.

    Returns:
        float64 (N,).
    """
    radius: np.ndarray | None = None
    for result in results:
        rows = result.rows
        broken_at = np.where(result.broken, rows["linf"], np.inf)
        broken_at = np.where(rows["clean"] != rows["label"], 0.0, broken_at)
        radius = broken_at if radius is None else np.minimum(radius, broken_at)
    if radius is None:
        raise ValueError("results must hold at least one result, got none")
    return radius


def robust_at(radius: np.ndarray, eps: float) -> Rate:
    """Return the accuracy within `eps`, with a tolerance for rounding."""
    return Rate.of(radius > eps * (1 + 1e-5) + 1e-7)
