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


_RESULT_COLUMNS = ("decision", "claimed", "success", "l2", "linf", "queries")


class CellCollector:
    """Collects the rows of a group of cells, and assesses them `batch` at a time.

    Args:
        network: The network that decides on the adversarial images.
        attack: The attack that the cells share, except for its field per row.
        x: Images (N, C, H, W).
        batch: Number of rows in every call of the network.
        caused: Evaluations of the network that each cell (by its number) has caused so far. The
            source of the rows counts them; here they apportion the cost of the group.
        common: Columns that the cells share.
        keep: Number of adversarial images to keep, the first ones.
    """

    def __init__(
        self,
        network: Oracle,
        attack: Attack[Any],
        x: Tensor,
        batch: int,
        caused: Mapping[int, int],
        common: dict[str, Tensor],
        keep: int,
    ) -> None:
        self._network, self._attack, self._x, self._batch = network, attack, x, batch
        self._caused, self._common, self._keep = caused, common, keep
        self._partial = {number: _PartialCell(len(x)) for number in caused}
        self._waiting: list[FinishedRows] = []
        self._begun, self._charged = time.perf_counter(), network.evaluations

    def add(self, rows: FinishedRows) -> Iterator[tuple[int, dict[int, Measurement]]]:
        """Take finished rows; yield as :func:`~fastrobust.sweep.measure.measure` does."""
        self._waiting.append(rows)
        while sum(len(part.cell) for part in self._waiting) >= self._batch:
            yield self._batch, self._assess(self._batch)

    def flush(self) -> Iterator[tuple[int, dict[int, Measurement]]]:
        """Assess the remaining rows, fewer than a batch; yield as `add` does."""
        if self._waiting:
            count = sum(len(part.cell) for part in self._waiting)
            yield count, self._assess(count)

    def _assess(self, count: int) -> dict[int, Measurement]:
        """Assess the first `count` of the waiting rows; return the cells that they complete."""
        cells, images, states = zip(*self._waiting, strict=True)
        cell, image, state = torch.cat(cells), torch.cat(images), states[0].join(states[1:])
        rows = torch.arange(count, len(cell), device=cell.device)
        later = FinishedRows(cell[rows], image[rows], state.take(rows))
        self._waiting = [later] if len(rows) else []
        cell, image = cell[:count], image[:count]
        rows = torch.arange(count, device=cell.device)
        # A padded row is marked invalid, so it makes no queries of its own.
        batch, tickets = padded(state.take(rows), rows, self._batch)
        x = self._x[image[tickets.clamp_min(0)]]
        result = self._attack.assess(self._network, batch, x)
        columns = {name: getattr(result, name)[:count] for name in (*_RESULT_COLUMNS, "adv")}
        naive = columns["queries"] + self._attack.saved_queries(batch)[:count]
        stopped_early = self._attack.stopped_early(batch)[:count]
        completed = {}
        for number in cell.unique().tolist():
            mask, partial = cell == number, self._partial[number]
            partial.sums["naive"] += int(naive[mask].sum())
            partial.sums["invalid"] += int(result.invalid[:count][mask].sum())
            partial.sums["stalled"] += int(result.stalled[:count][mask].sum())
            partial.first_success |= bool(stopped_early[mask].any())
            self._put(partial, image[mask], {name: t[mask] for name, t in columns.items()})
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
                count = self._keep if name == "adv" else len(self._x)
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
        """Return a cell's seconds and evaluations: its share of those not yet charged to a cell."""
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
