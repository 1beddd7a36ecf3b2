"""Searches for c that meet on the same image make the same run once.

A search that fails at c = 0.01 goes on at 0.1, where another column of the table begins
(cleverhans starts every step anew, so both make the very same run). Here the runs at one c are the
rows that flow through the slots, and every search learns from those that it needs.

Where a success is all that counts, a run that succeeds anywhere on a search's way settles it: had
none before succeeded, the search would have come there. So the c that most searches have on their
way goes first, and often it is the only one.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..attacks.const_search import bisect
from ..ops.cw_step_op import NO_UPPER
from .collect import Tally
from .rows import Start


@dataclass(eq=False)
class _Run:
    """One minimisation: one image at one c, for whoever searches there."""

    place: int
    const: float
    ended: bool = False
    found: bool = False
    invalid: bool = False
    stalled: bool = False
    queries: int = 0
    best_l2: float = torch.inf
    best_f: float = torch.inf
    best: Tensor | None = None


@dataclass(eq=False)
class _Search:
    """The search for c of one cell on one image."""

    number: int
    const: Tensor
    lower: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    upper: Tensor = field(default_factory=lambda: torch.tensor([NO_UPPER], dtype=torch.float64))
    steps: int = 0
    queries: int = 0
    won: bool = False
    invalid: bool = False
    stalled: bool = False
    ended: bool = False
    best: _Run | None = None

    def learn(self, run: _Run, steps: int) -> None:
        """Go on by what a run at `const` found, as a row by itself does."""
        rival = self.best
        if run.found:
            better = rival is None or not self.won or run.best_l2 < rival.best_l2
        else:
            better = rival is None or (
                not self.won and (run.best_f, run.best_l2) < (rival.best_f, rival.best_l2)
            )
        if better:
            self.best = run
        self.won |= run.found
        self.steps += 1
        self.queries += run.queries
        found = torch.tensor([run.found])
        self.const, self.lower, self.upper = bisect(found, self.const, self.lower, self.upper)
        if steps >= 10 and self.steps == steps - 1:
            self.const = self.upper
        self.invalid |= run.invalid
        self.stalled |= run.stalled
        self.ended = self.steps == steps or run.invalid or run.stalled

    def win(self, run: _Run) -> None:
        """End with a success that the search would have come to, if to none before."""
        self.won, self.ended, self.best = True, True, run
        self.steps, self.queries = 1, run.queries


def _way(const: float, steps: int) -> list[float]:
    """Return every c of a search that nothing succeeds in."""
    search, way = _Search(0, torch.tensor([const], dtype=torch.float64)), []
    while not search.ended:
        way.append(search.const.item())
        search.learn(_Run(0, way[-1]), steps)
    return way


class Searches:
    """The runs that the searches for c of some cells need, image by image, each of them once."""

    def __init__(self, start: Start, tally: Tally, consts: list[float]) -> None:
        rule: Any = start.rule
        self.rule, self.inner = rule, replace(rule, binary_search_steps=1)
        self._start, self._tally, self._consts = start, tally, consts
        self._hasty = start.first_success.tolist()
        self._ways = [_way(const, rule.binary_search_steps) for const in consts]
        self._next = 0
        self._known: dict[int, dict[float, _Run]] = {}
        self._searches: dict[int, list[_Search]] = {}
        self._queue: deque[_Run] = deque()
        self._out: dict[int, tuple[_Run, int]] = {}
        self._tickets = 0
        self._for: dict[_Run, int] = {}

    def next_rows(self, count: int) -> tuple[Any, Tensor] | None:
        """Return fresh runs, of images on their way first."""
        while len(self._queue) < count and self._next < len(self._start.subject):
            self._open(self._next)
            self._next += 1
        runs = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
        if not runs:
            return None
        device = self._start.subject.x.device
        place = torch.tensor([run.place for run in runs], device=device)
        const = torch.tensor([run.const for run in runs], dtype=torch.float64, device=device)
        tickets = torch.arange(self._tickets, self._tickets + len(runs), device=device)
        self._tickets += len(runs)
        for ticket, run in zip(tickets.tolist(), runs, strict=True):
            self._out[ticket] = (run, self._for.pop(run))
        return self._start(self.inner, place, const), tickets

    def observe(self, state: Any, tickets: Tensor) -> None:
        """Runs are only looked at when they are done."""

    def finish(self, state: Any, tickets: Tensor) -> None:
        """Tell every search that waits for one of these runs."""
        names = ("found", "won", "invalid", "stalled", "queries", "best_l2", "best_f")
        facts = {name: getattr(state, name).tolist() for name in names}
        places = set()
        for row, ticket in enumerate(tickets.tolist()):
            run, number = self._out.pop(ticket)
            run.ended, run.found = True, facts["won"][row]
            for name in ("invalid", "stalled", "best_l2", "best_f"):
                setattr(run, name, facts[name][row])
            run.queries = facts["queries"][row] - self._start.goal.asked
            run.best = state.best[row].clone()
            self._tally.account.caused[self._tally.cells[number]] += run.queries
            places.add(run.place)
        for place in sorted(places):
            self._go_on(place, self._queue.appendleft)
        finished = [p for p in places if all(search.ended for search in self._searches[p])]
        if finished:
            self._hand_on(finished)

    def _open(self, place: int) -> None:
        self._known[place] = {}
        self._searches[place] = [
            _Search(number, torch.tensor([const], dtype=torch.float64))
            for number, const in enumerate(self._consts)
        ]
        self._go_on(place, self._queue.append)

    def _want(self, place: int, const: float, number: int, queue: Callable[[_Run], None]) -> None:
        """Queue a run that a search needs, unless it is known or on its way."""
        if const not in self._known[place]:
            run = self._known[place][const] = _Run(place, const)
            self._for[run] = number
            queue(run)

    def _go_on(self, place: int, queue: Callable[[_Run], None]) -> None:
        """Let the searches on one image go as far as they can, and queue what they need then."""
        known, open_ = self._known[place], []
        for search in self._searches[place]:
            while not search.ended and (run := known.get(search.const.item())) and run.ended:
                if run.found and self._hasty[place]:
                    search.win(run)
                else:
                    search.learn(run, self.rule.binary_search_steps)
            if not search.ended:
                open_.append(search)
        if self._hasty[place]:
            open_ = self._settled(place, open_)
            if open_ and all(run.ended for run in known.values()):
                ways = [set(self._ways[search.number]) - known.keys() for search in open_]
                # The most useful c; of equals the largest, which succeeds most easily.
                most = Counter(const for way in ways for const in way)
                const = max(most, key=lambda const: (most[const], const))
                first = next(s for s, way in zip(open_, ways, strict=True) if const in way)
                self._want(place, const, first.number, queue)
            return
        for search in open_:
            self._want(place, search.const.item(), search.number, queue)

    def _settled(self, place: int, searches: list[_Search]) -> list[_Search]:
        """End the searches that a success lies ahead of; return the others."""
        left = []
        for search in searches:
            ahead = (self._known[place].get(const) for const in self._ways[search.number])
            success = next((run for run in ahead if run and run.found), None)
            if success:
                search.win(success)
            else:
                left.append(search)
        return left

    def _hand_on(self, places: list[int]) -> None:
        """Dress the end of every search on these images as the row that makes it alone."""
        device = self._start.subject.x.device
        searches = [(p, search) for p in places for search in self._searches.pop(p)]
        for p in places:
            del self._known[p]
        place = torch.tensor([p for p, _ in searches], device=device)
        number = torch.tensor([search.number for _, search in searches], device=device)
        const = torch.tensor(self._consts, dtype=torch.float64, device=device)[number]
        ended = self._start(self.rule, place, const)
        for row, (_, search) in enumerate(searches):
            run = search.best
            assert run is not None and run.best is not None
            ended.best[row] = run.best
            ended.won[row] = search.won
            ended.search[row] = search.steps
            ended.queries[row] += search.queries
            ended.invalid[row] |= search.invalid
            ended.stalled[row] |= search.stalled
        self._tally.add(self.rule, number, place, ended)
