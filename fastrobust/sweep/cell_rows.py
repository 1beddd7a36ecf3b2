"""The rows of a group of cells: every image of every cell, and the work that the cells share."""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..engine.answers import Answer
from .rows import FinishedRows, RowFactory
from .testbed import in_batches


class CellRows:
    """Every image of every cell, cell after cell, so that one cell is complete after the other.

    If the cells differ in their number of updates, only the longest runs. A row is copied when it
    has made as many updates as a shorter cell has.

    Args:
        factory: Makes the rows.
        values: Each cell's value of the attack's field per row.
        lengths: Each cell's number of updates, ascending, if that is what they differ in.
        batch: Number of rows in every call of the network.
        clean_gradient: Compute the gradient at every clean image once, if every row begins there.

    Attributes:
        attack: The attack that moves the rows.
        caused: Evaluations of the network that each cell has caused so far.
    """

    def __init__(
        self,
        factory: RowFactory,
        values: list[float],
        lengths: list[int],
        batch: int,
        clean_gradient: bool,
    ) -> None:
        self.attack, self._factory, self._lengths = factory.attack, factory, lengths
        self._batch = batch
        self._values = torch.tensor(values, dtype=torch.float64)
        count, cells = len(factory.x), len(values)
        self.caused = Counter(dict.fromkeys(range(cells), 0))
        # If the other cells are prefixes of the last one, rows run for the last one only.
        self._first = cells - 1 if lengths else 0
        self._next, self._end = 0, (cells - self._first) * count
        self._copied = torch.zeros(cells, count, dtype=torch.bool)
        self._paid = torch.full((count,), factory.goal.asked)
        several = cells - self._first > 1
        self._asks_clean = clean_gradient and several and factory.attack.starts_at_image

    def next_rows(self, count: int) -> tuple[Any, Tensor] | None:
        """Return fresh rows, one step ahead where the first answer is known."""
        tickets = torch.arange(self._next, min(self._next + count, self._end))
        if not len(tickets):
            return None
        self._next += len(tickets)
        device = self._factory.x.device
        cell, image = self._split(tickets)
        image = image.to(device)
        state = self._factory.make(self.attack, image, self._values[cell].to(device))
        if self._asks_clean:
            answer = Answer(*(part[image] for part in self._clean_answers))
            live = ~self.attack.done(state)
            self.attack.book(state, answer, live, 2)
            self.attack.advance(state, answer, live)
        return state, tickets.to(device)

    def observe(self, state: Any, tickets: Tensor) -> Iterator[FinishedRows]:
        """Yield copies of the rows that have made as many updates as a shorter cell has."""
        for number, length in enumerate(self._lengths[:-1]):
            rows = ((state.iteration == length) & (tickets >= 0)).nonzero().flatten()
            fresh = ~self._copied[number, tickets[rows].cpu()]
            if fresh.any():
                rows = rows[fresh.to(rows.device)]
                yield self._copy(number, tickets[rows], state.take(rows))

    def finish(self, state: Any, tickets: Tensor) -> Iterator[FinishedRows]:
        """Yield rows for their cell, and for the longer cells if they ended early."""
        if not self._lengths:
            cell, image = self._split(tickets.cpu())
            paid = self._factory.goal.asked + (2 if self._asks_clean else 0)
            for number in cell.unique().tolist():
                self.caused[number] += int((state.queries[cell == number] - paid).sum())
            yield FinishedRows(cell.to(tickets.device), image.to(tickets.device), state)
            return
        for number in range(len(self._lengths)):
            rows = (~self._copied[number, tickets.cpu()]).nonzero().flatten().to(tickets.device)
            if len(rows):
                yield self._copy(number, tickets[rows], state.take(rows))

    def _copy(self, number: int, image: Tensor, state: Any) -> FinishedRows:
        """Return rows as they are now for one of the cells."""
        index = image.cpu()
        self._copied[number, index] = True
        queries = state.queries.cpu()
        self.caused[number] += int((queries - self._paid[index]).sum())
        self._paid[index] = queries
        return FinishedRows(torch.full_like(image, number), image, state)

    def _split(self, tickets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cells and the images of tickets."""
        count = len(self._factory.x)
        return self._first + tickets // count, tickets % count

    @cached_property
    def _clean_answers(self) -> Answer:
        """The answers at every clean image."""
        factory, attack = self._factory, self.attack
        image = torch.arange(len(factory.x), device=factory.x.device)
        state = factory.make(attack, image, self._values[:1].to(image.device).expand(len(image)))
        sign = state.sign if attack.climbs else -state.sign

        def ask(
            x: Tensor, y: Tensor, sign: Tensor, label: Tensor | None = None
        ) -> tuple[Tensor, ...]:
            asked = x, y, attack.objective, sign, label
            return tuple(factory.network.gradient(*asked, confirm=attack.ends_early))

        label = () if state.label is None else (state.label,)
        self.caused[self._first] += 2 * len(image)
        return Answer(*in_batches(self._batch, ask, state.x, state.y, sign, *label))
