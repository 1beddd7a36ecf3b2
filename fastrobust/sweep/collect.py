"""Collects finished rows cell by cell: assesses them in full batches, and completes the cells."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attacks.base import Attack
from ..engine.gradients import Oracle
from ..engine.scheduler import padded
from .rows import FinishedRows
from .testbed import Testbed


@dataclass(frozen=True)
class Measurement:
    """A measured cell, as ``RunFolder.write`` takes it: columns, sums over them, some images."""

    rows: dict[str, np.ndarray]
    facts: dict[str, Any]
    images: dict[str, np.ndarray] | None


@dataclass
class _PartialCell:
    """What is known of a cell so far: columns by name, and sums over its rows."""

    missing: int
    columns: dict[str, Tensor] = field(default_factory=dict)
    sums: Counter[str] = field(default_factory=Counter)
    first_success: bool = False


_COLUMNS = ("decision", "claimed", "success", "l2", "linf", "queries")


class CellCollector:
    """Collects the rows of a group of cells, and assesses them `testbed.batch` at a time.

    Args:
        network: The network that decides on the adversarial images.
        attack: The attack that the cells share, but for its field per row.
        testbed: Classifier and images.
        caused: Evaluations of the network that each cell (by its number) has caused so far. The
            source of the rows counts them; here they apportion what the group has cost.
        cells: Number of cells.
        common: Columns that the cells share.
        keep: Number of adversarial images to keep, the first ones.
    """

    def __init__(
        self,
        network: Oracle,
        attack: Attack[Any],
        testbed: Testbed,
        caused: Mapping[int, int],
        cells: int,
        common: dict[str, Tensor],
        keep: int,
    ) -> None:
        self._network, self._attack, self._testbed = network, attack, testbed
        self._caused, self._common, self._keep = caused, common, keep
        self._partial = {number: _PartialCell(len(testbed)) for number in range(cells)}
        self._waiting: list[FinishedRows] = []
        self._begun, self._charged = time.perf_counter(), network.evaluations

    def add(self, rows: FinishedRows) -> Iterator[tuple[int, dict[int, Measurement]]]:
        """Take finished rows; yield as :func:`~fastrobust.sweep.measure.measure` does."""
        self._waiting.append(rows)
        while sum(len(part.cell) for part in self._waiting) >= self._testbed.batch:
            yield self._testbed.batch, self._assess(self._testbed.batch)

    def flush(self) -> Iterator[tuple[int, dict[int, Measurement]]]:
        """Assess the rows that are left, fewer than a batch."""
        if self._waiting:
            count = sum(len(part.cell) for part in self._waiting)
            yield count, self._assess(count)

    def _assess(self, count: int) -> dict[int, Measurement]:
        """Assess the first `count` of the waiting rows; return the cells that they complete."""
        cells, images, states = zip(*self._waiting, strict=True)
        cell, image, state = torch.cat(cells), torch.cat(images), states[0].join(states[1:])
        rest = torch.arange(count, len(cell), device=cell.device)
        left = FinishedRows(cell[rest], image[rest], state.take(rest))
        self._waiting = [left] if len(rest) else []
        cell, image = cell[:count], image[:count]
        rows = torch.arange(count, device=cell.device)
        # A padded row is no longer valid, and so asks for nothing by itself.
        batch, tickets = padded(state.take(rows), rows, self._testbed.batch)
        x = self._testbed.x[image[tickets.clamp_min(0)]]
        result = self._attack.assess(self._network, batch, x)
        columns = {name: getattr(result, name)[:count] for name in (*_COLUMNS, "adv")}
        naive = columns["queries"] + self._attack.saved_queries(batch)[:count]
        stopped_early = self._attack.stopped_early(batch)[:count]
        completed = {}
        for number in cell.unique().tolist():
            mine, partial = cell == number, self._partial[number]
            partial.sums["naive"] += int(naive[mine].sum())
            partial.sums["invalid"] += int(result.invalid[:count][mine].sum())
            partial.sums["stalled"] += int(result.stalled[:count][mine].sum())
            partial.first_success |= bool(stopped_early[mine].any())
            self._put(partial, image[mine], {name: t[mine] for name, t in columns.items()})
            if not partial.missing:
                completed[number] = self._measurement(number)
        return completed

    def _put(self, partial: _PartialCell, image: Tensor, columns: dict[str, Tensor]) -> None:
        """Write rows into a cell's columns, at the indices of their images."""
        image = image.cpu()
        kept = (image < self._keep).nonzero().flatten()
        adv = columns.pop("adv").cpu()
        for name, values in (*columns.items(), ("adv", adv[kept])):
            if name not in partial.columns:
                count = self._keep if name == "adv" else len(self._testbed)
                partial.columns[name] = values.cpu().new_zeros((count, *values.shape[1:]))
            partial.columns[name][image[kept] if name == "adv" else image] = values.cpu()
        partial.missing -= len(image)

    def _measurement(self, number: int) -> Measurement:
        """Return a cell that is complete, with its share of the cost."""
        seconds, executed = self._charge(number)
        partial = self._partial.pop(number)
        adversarial = partial.columns.pop("adv").numpy()
        columns = {**self._common, **partial.columns}
        facts = {
            "seconds": seconds,
            **{name: partial.sums[name] for name in ("naive", "invalid", "stalled")},
            "executed": executed,
            "first_success": partial.first_success,
        }
        images = {"index": np.arange(len(adversarial)), "adversarial": adversarial}
        rows = {name: column.cpu().numpy() for name, column in columns.items()}
        return Measurement(rows, facts, images)

    def _charge(self, number: int) -> tuple[float, int]:
        """Return a cell's seconds and evaluations: its share of what no cell has paid for yet."""
        others = [other for other in self._partial if other != number]
        caused = self._caused[number]
        share = (caused + 1) / (caused + 1 + sum(self._caused[other] for other in others))
        if not others:
            share = 1.0
        seconds = (time.perf_counter() - self._begun) * share
        evaluations = round((self._network.evaluations - self._charged) * share)
        self._begun += seconds
        self._charged += evaluations
        return seconds, evaluations
