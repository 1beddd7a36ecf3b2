"""Rows for the slots: the images of some cells that share a rule, and what those cells can share.

Each saving changes no decision and no number of a table; each can be switched off.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attacks import Attack
from ..attacks.targets import Goal
from ..engine.answers import Answer
from ..engine.gradients import Oracle
from .collect import Tally
from .testbed import Subject


@dataclass(frozen=True)
class Savings:
    """What a sweep may save.

    Attributes:
        first_success: A search that only counts successes ends at its first one, where its own test
            is the decision, and where no label but the true one can be left by it.
        shared_const: Searches for c meet at the same c on the same image; that run is made once.
        prefixes: A shorter run is the beginning of a longer one.
        clean_gradient: All budgets take their first step by one gradient at the clean image.
    """

    first_success: bool = True
    shared_const: bool = True
    prefixes: bool = True
    clean_gradient: bool = True


class Start:
    """Makes fresh rows of a group of cells; they differ in the rule's budget alone."""

    def __init__(
        self, rule: Attack[Any], network: Oracle, subject: Subject, goal: Goal, first_success: bool
    ) -> None:
        self.rule, self.network, self.subject, self.goal = rule, network, subject, goal
        # To leave one's own wrong decision may be to arrive at the true label.
        own = (goal.sign < 0) | (goal.y == subject.y)
        self.first_success = own if first_success else torch.zeros_like(own)

    def __call__(self, rule: Attack[Any], place: Tensor, budget: Tensor | None) -> Any:
        """Return the state of rows at these images (M,) with these budgets (M,)."""
        x = self.subject.x[place]
        goal = self.goal
        wish = Goal(
            goal.y[place], goal.sign[place], goal.valid[place], goal.asked,
            None if goal.z is None else goal.z[place],
        )  # fmt: skip
        budgets = {} if rule.per_row is None else {rule.per_row: budget}
        x0 = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
        state = rule.start(self.network, x0, wish, **budgets, seed=self.subject.seed, index=place)
        if hasattr(state, "first_success"):
            state.first_success |= self.first_success[place]
        return state


class Rows:
    """Every image of every cell in turn: the cells one after the other, so that they end in turn.

    Where the cells differ in how long they run, only the longest is run, and a row is looked at on
    its way, when it has come as far as a shorter one goes.
    """

    def __init__(
        self,
        start: Start,
        tally: Tally,
        budgets: list[float],
        lengths: list[int],
        savings: Savings,
    ) -> None:
        self.rule, self._start, self._tally = start.rule, start, tally
        self._budgets = torch.tensor(budgets, dtype=torch.float64)
        self._lengths = lengths
        count = len(start.subject)
        # Rows run for the last cell alone, where the others are its prefixes.
        self._first = len(tally.cells) - 1 if lengths else 0
        self._next, self._end = 0, (len(tally.cells) - self._first) * count
        self._seen = torch.zeros(len(tally.cells), count, dtype=torch.bool)
        self._paid = torch.full((count,), start.goal.asked)
        several = len(tally.cells) - self._first > 1
        self._clean = None
        if savings.clean_gradient and several and start.rule.starts_at_image:
            self._clean = self._clean_answers()

    def next_rows(self, count: int) -> tuple[Any, Tensor] | None:
        """Return fresh rows, one step ahead where the first answer is known."""
        tickets = torch.arange(self._next, min(self._next + count, self._end))
        if not len(tickets):
            return None
        self._next += len(tickets)
        device = self._start.subject.x.device
        cell, place = self._whose(tickets)
        place = place.to(device)
        budget = self._budgets[cell - self._first].to(device)
        state = self._start(self.rule, place, budget)
        if self._clean is not None:
            answer = Answer(*(part[place] for part in self._clean))
            live = ~self.rule.done(state)
            self.rule.book(state, answer, live, 2)
            self.rule.advance(state, answer, live)
        return state, tickets.to(device)

    def observe(self, state: Any, tickets: Tensor) -> None:
        """Note the rows that have come as far as one of the shorter cells goes."""
        for number, length in enumerate(self._lengths[:-1]):
            rows = ((state.iteration == length) & (tickets >= 0)).nonzero().flatten()
            fresh = ~self._seen[number, tickets[rows].cpu()]
            if fresh.any():
                rows = rows[fresh.to(rows.device)]
                self._note(number, tickets[rows], state.take(rows))

    def finish(self, state: Any, tickets: Tensor) -> None:
        """Hand rows on to their cell, and to the longer ones that they ended before."""
        if not self._lengths:
            cell, place = self._whose(tickets.cpu())
            paid = self._start.goal.asked + (0 if self._clean is None else 2)
            for number in cell.unique().tolist():
                mine = state.queries[cell == number] - paid
                self._tally.account.caused[self._tally.cells[number]] += int(mine.sum())
            self._tally.add(self.rule, cell.to(tickets.device), place.to(tickets.device), state)
            return
        for number in range(len(self._lengths)):
            rows = (~self._seen[number, tickets.cpu()]).nonzero().flatten().to(tickets.device)
            if len(rows):
                self._note(number, tickets[rows], state.take(rows))

    def _note(self, number: int, place: Tensor, state: Any) -> None:
        """Hand on what the rows look like now to one of the cells."""
        here = place.cpu()
        self._seen[number, here] = True
        queries = state.queries.cpu()
        caused = int((queries - self._paid[here]).sum())
        self._tally.account.caused[self._tally.cells[number]] += caused
        self._paid[here] = queries
        self._tally.add(self.rule, torch.full_like(place, number), place, state)

    def _whose(self, tickets: Tensor) -> tuple[Tensor, Tensor]:
        count = len(self._start.subject)
        return self._first + tickets // count, tickets % count

    def _clean_answers(self) -> Answer:
        """Ask about every clean image once."""
        start, rule = self._start, self.rule
        every = torch.arange(len(start.subject), device=start.subject.x.device)
        state = start(rule, every, self._budgets[:1].to(every.device).expand(len(every)))
        sign = state.sign if rule.climbs else -state.sign

        def ask(
            x: Tensor, y: Tensor, sign: Tensor, label: Tensor | None = None
        ) -> tuple[Tensor, ...]:
            asked = x, y, rule.objective, sign, label
            return tuple(start.network.gradient(*asked, confirm=rule.ends_early))

        label = () if state.label is None else (state.label,)
        first = self._tally.cells[self._first]
        self._tally.account.caused[first] += 2 * len(every)
        return Answer(*start.subject.in_batches(state.x, ask, state.y, sign, *label))
