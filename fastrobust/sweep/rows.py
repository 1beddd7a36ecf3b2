"""The rows of a group of cells: every image of every cell, and the work that the cells share.

Each optimisation changes no decision and no number of a table; each can be switched off.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..attacks.base import Attack
from ..attacks.targets import Goal
from ..engine.answers import Answer
from ..engine.gradients import Oracle
from .collect import FinishedRows
from .testbed import Testbed


@dataclass(frozen=True)
class SweepOptions:
    """The optimisations of a sweep.

    Attributes:
        first_success: A search that only counts successes ends at its first one, where its own test
            is the decision, and where no label but the true one can be left by it.
        shared_const: Searches for c that come to the same c on the same image share that run.
        prefixes: A shorter run is the beginning of a longer one.
        clean_gradient: All values of eps take their first step by one gradient at the clean image.
    """

    first_success: bool = True
    shared_const: bool = True
    prefixes: bool = True
    clean_gradient: bool = True

    @classmethod
    def without(cls, names: Iterable[str]) -> "SweepOptions":
        """Return all optimisations but those named, such as ``"shared-const"``.

        Raises:
            ValueError: There is no optimisation of that name.
        """
        known = {field.name.replace("_", "-"): field.name for field in fields(cls)}
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(f"savings must be among {', '.join(known)}, got {unknown}")
        return cls(**{known[name]: False for name in names})


class RowFactory:
    """Makes fresh rows of a group of cells, which differ in the attack's field per row alone.

    Args:
        attack: The attack of the cells; of several lengths, the longest.
        network: The network that it attacks.
        testbed: Classifier and images.
        goal: What the attack shall reach on each image.
        first_success: Let searches end at their first success where the true label is left.
    """

    def __init__(
        self,
        attack: Attack[Any],
        network: Oracle,
        testbed: Testbed,
        goal: Goal,
        first_success: bool,
    ) -> None:
        self.attack, self.network, self.testbed, self.goal = attack, network, testbed, goal
        # To leave one's own wrong decision may be to arrive at the true label.
        suited = (goal.sign < 0) | (goal.y == testbed.y)
        self.first_success = suited if first_success else torch.zeros_like(suited)

    def make(self, attack: Attack[Any], image: Tensor, value: Tensor | None) -> Any:
        """Return the state of rows at these images (M,) with these values (M,) of the field."""
        x, goal = self.testbed.x[image], self.goal
        z = None if goal.z is None else goal.z[image]
        goal = Goal(goal.y[image], goal.sign[image], goal.valid[image], goal.asked, z)
        per_row = {} if attack.per_row is None else {attack.per_row: value}
        x0 = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
        state = attack.start(self.network, x0, goal, **per_row, seed=self.testbed.seed, index=image)
        if hasattr(state, "first_success"):
            state.first_success |= self.first_success[image]
        return state


class CellRows:
    """Every image of every cell: cell after cell, so that they are complete one after the other.

    Where the cells differ in how long they run, only the longest is run, and a row is copied on its
    way, when it has come as far as a shorter one goes.

    Args:
        factory: Makes the rows.
        values: Each cell's value of the attack's field per row.
        lengths: Each cell's number of updates, ascending, where that is what they differ in.
        clean_gradient: Ask about every clean image once, where that is every row's first question.

    Attributes:
        attack: The attack that moves the rows.
        caused: Evaluations of the network that each cell has caused so far.
    """

    def __init__(
        self, factory: RowFactory, values: list[float], lengths: list[int], clean_gradient: bool
    ) -> None:
        self.attack, self._factory, self._lengths = factory.attack, factory, lengths
        self._values = torch.tensor(values, dtype=torch.float64)
        count, cells = len(factory.testbed), len(values)
        self.caused = Counter(dict.fromkeys(range(cells), 0))
        # Rows run for the last cell alone, where the others are its prefixes.
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
        device = self._factory.testbed.x.device
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
        """Yield copies of the rows that have come as far as one of the shorter cells goes."""
        for number, length in enumerate(self._lengths[:-1]):
            rows = ((state.iteration == length) & (tickets >= 0)).nonzero().flatten()
            fresh = ~self._copied[number, tickets[rows].cpu()]
            if fresh.any():
                rows = rows[fresh.to(rows.device)]
                yield self._copy(number, tickets[rows], state.take(rows))

    def finish(self, state: Any, tickets: Tensor) -> Iterator[FinishedRows]:
        """Yield rows for their cell, and for the longer cells whose end they did not come to."""
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
        count = len(self._factory.testbed)
        return self._first + tickets // count, tickets % count

    @cached_property
    def _clean_answers(self) -> Answer:
        """The answers at every clean image."""
        factory, attack, testbed = self._factory, self.attack, self._factory.testbed
        image = torch.arange(len(testbed), device=testbed.x.device)
        state = factory.make(attack, image, self._values[:1].to(image.device).expand(len(image)))
        sign = state.sign if attack.climbs else -state.sign

        def ask(
            x: Tensor, y: Tensor, sign: Tensor, label: Tensor | None = None
        ) -> tuple[Tensor, ...]:
            asked = x, y, attack.objective, sign, label
            return tuple(factory.network.gradient(*asked, confirm=attack.ends_early))

        label = () if state.label is None else (state.label,)
        self.caused[self._first] += 2 * len(image)
        return Answer(*testbed.in_batches(state.x, ask, state.y, sign, *label))
