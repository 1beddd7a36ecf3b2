"""Collects what is found about each image, cell by cell, until a cell is whole."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attacks import Attack
from ..attacks.state import State
from ..engine.gradients import Oracle
from ..engine.scheduler import padded
from ..runs.plan import Cell
from .testbed import Subject


@dataclass(frozen=True)
class Measurement:
    """What `store.RunFolder.write` takes: the rows, the sums beside them, some of the images."""

    rows: dict[str, np.ndarray]
    facts: dict[str, Any]
    images: dict[str, np.ndarray] | None


@dataclass
class Account:
    """Who caused how many evaluations of the network, and what has been charged for them."""

    network: Oracle
    began: float = field(default_factory=time.perf_counter)
    evaluations: int = 0
    caused: dict[Cell, int] = field(default_factory=dict)

    def charge(self, cell: Cell) -> tuple[float, int]:
        """Return a cell's seconds and evaluations: its share of what nobody was charged for yet."""
        caused = self.caused.pop(cell, 0)
        share = (caused + 1) / (caused + 1 + sum(self.caused.values()))
        if not self.caused:
            share = 1.0
        now, spent = time.perf_counter(), self.network.evaluations
        seconds = (now - self.began) * share
        evaluations = round((spent - self.evaluations) * share)
        self.began += seconds
        self.evaluations += evaluations
        return seconds, evaluations


_JUDGED = ("decision", "claimed", "success", "l2", "linf", "queries")


class Tally:
    """The rows of some cells that share an attack's rule, judged `subject.batch` at a time.

    Args:
        network: Whom to ask for the verdicts.
        subject: On which classifier and images.
        cells: The cells, by the place that :meth:`add` calls them by.
        keep: How many of the first images to keep.
        done: Called with a cell and its measurement as soon as it is whole.
        advance: Called with the number of rows found.
    """

    def __init__(
        self,
        network: Oracle,
        subject: Subject,
        cells: list[Cell],
        keep: int,
        done: Callable[[Cell, Measurement], None],
        advance: Callable[[int], None],
    ) -> None:
        self.subject, self.cells = subject, cells
        self.account = Account(network, evaluations=network.evaluations)
        self.account.caused = dict.fromkeys(cells, 0)
        self._keep, self._done, self._advance = keep, done, advance
        count = len(subject)
        self._missing = [count] * len(cells)
        self._columns: list[dict[str, Tensor]] = [{} for _ in cells]
        self._sums = [dict.fromkeys(("naive", "invalid", "stalled"), 0) for _ in cells]
        self._hasty = [False] * len(cells)
        self._waiting: list[tuple[Tensor, Tensor, State]] = []

    def add(self, rule: Attack[Any], cell: Tensor, place: Tensor, state: State) -> None:
        """Take rows that are done: which cell (M,) and which image (M,) each belongs to."""
        self._waiting.append((cell, place, state))
        while sum(len(cell) for cell, _, _ in self._waiting) >= self.subject.batch:
            self._judge(rule, self.subject.batch)

    def flush(self, rule: Attack[Any]) -> None:
        """Judge the rows that are left."""
        if self._waiting:
            self._judge(rule, sum(len(cell) for cell, _, _ in self._waiting))

    def _judge(self, rule: Attack[Any], count: int) -> None:
        cells, places, states = zip(*self._waiting, strict=True)
        cell, place, state = torch.cat(cells), torch.cat(places), states[0].join(states[1:])
        rest = torch.arange(count, len(cell), device=cell.device)
        self._waiting = [(cell[rest], place[rest], state.take(rest))] if len(rest) else []
        cell, place = cell[:count], place[:count]
        rows = torch.arange(count, device=cell.device)
        # A padded row is no longer valid, and so asks for nothing by itself.
        whole, tickets = padded(state.take(rows), rows, self.subject.batch)
        x = self.subject.x[place[tickets.clamp_min(0)]]
        result = rule.assess(self.account.network, whole, x)
        found = {name: getattr(result, name)[:count] for name in (*_JUDGED, "adv")}
        naive = found["queries"] + rule.saved_queries(whole)[:count]
        for number in cell.unique().tolist():
            mine = cell == number
            sums = self._sums[number]
            sums["naive"] += int(naive[mine].sum())
            sums["invalid"] += int(result.invalid[:count][mine].sum())
            sums["stalled"] += int(result.stalled[:count][mine].sum())
            self._hasty[number] |= bool(rule.stopped_early(whole)[:count][mine].any())
            self._write(number, place[mine], {name: t[mine] for name, t in found.items()})

    def _write(self, number: int, place: Tensor, found: dict[str, Tensor]) -> None:
        """Put rows in their places, and hand the cell over once it is whole."""
        columns, place = self._columns[number], place.cpu()
        kept = (place < self._keep).nonzero().flatten()
        adv = found.pop("adv").cpu()
        for name, values in (*found.items(), ("adv", adv[kept])):
            rows = place[kept] if name == "adv" else place
            if name not in columns:
                count = self._keep if name == "adv" else len(self.subject)
                columns[name] = values.cpu().new_zeros((count, *values.shape[1:]))
            columns[name][rows] = values.cpu()
        self._missing[number] -= len(place)
        self._advance(len(place))
        if not self._missing[number]:
            self._done(self.cells[number], self._measurement(number))

    def _measurement(self, number: int) -> Measurement:
        cell, columns, subject = self.cells[number], self._columns[number], self.subject
        goal = subject.goal(targeted=cell.targeted, labels=cell.labels)
        adversarial = columns.pop("adv").numpy()
        rows = {
            "index": torch.arange(len(subject)),
            "label": subject.y,
            "target": goal.y if cell.targeted else torch.full_like(subject.y, -1),
            "clean": subject.decision,
            **columns,
        }
        seconds, executed = self.account.charge(cell)
        facts = {
            "seconds": seconds,
            **self._sums[number],
            "executed": executed,
            "first_success": self._hasty[number],
        }
        index = np.arange(len(adversarial))
        return Measurement(
            {name: column.cpu().numpy() for name, column in rows.items()},
            facts,
            {"index": index, "adversarial": adversarial},
        )
