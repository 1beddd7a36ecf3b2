"""Searches for c that come to the same c on the same image share that run.

A search that fails at c = 0.01 goes on at 0.1, where another column of the table begins
(cleverhans starts every step anew, so both make the very same run). Here a row of the batch is a
run at one c, and every search learns from the runs that it needs.

If only successes count, a success at any c on a search's failing path ends the search: if no c
before it succeeded, the search would have come to it. So the c on most paths is run first, and
often it is the only one.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..attacks.const_search import bisect
from ..ops.cw_step_op import NO_UPPER
from .rows import FinishedRows, RowFactory


@dataclass(eq=False)
class _ConstRun:
    """One minimisation: one image at one c, for every search that needs it."""

    image: int
    const: float
    cell: int = 0  # the number of the cell that asked for it first, and pays
    ended: bool = False
    success: bool = False
    invalid: bool = False
    stalled: bool = False
    queries: int = 0
    best_l2: float = torch.inf
    best_f: float = torch.inf
    best: Tensor | None = None


@dataclass(eq=False)
class _ConstSearch:
    """The search for c of one cell on one image."""

    cell: int
    const: Tensor
    lower: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    upper: Tensor = field(default_factory=lambda: torch.tensor([NO_UPPER], dtype=torch.float64))
    steps: int = 0
    queries: int = 0
    won: bool = False
    invalid: bool = False
    stalled: bool = False
    ended: bool = False
    best: _ConstRun | None = None

    @classmethod
    def at(cls, cell: int, const: float) -> "_ConstSearch":
        """Return a search that begins at `const`."""
        return cls(cell, torch.tensor([const], dtype=torch.float64))

    def learn(self, run: _ConstRun, steps: int) -> None:
        """Go on from a run at `const`, as a row by itself does."""
        best = self.best
        if run.success:
            better = best is None or not self.won or run.best_l2 < best.best_l2
        else:
            better = best is None or (
                not self.won and (run.best_f, run.best_l2) < (best.best_f, best.best_l2)
            )
        if better:
            self.best = run
        self.won |= run.success
        self.steps += 1
        self.queries += run.queries
        success = torch.tensor([run.success])
        self.const, self.lower, self.upper = bisect(success, self.const, self.lower, self.upper)
        if steps >= 10 and self.steps == steps - 1:
            self.const = self.upper
        self.invalid |= run.invalid
        self.stalled |= run.stalled
        self.ended = self.steps == steps or run.invalid or run.stalled

    def win(self, run: _ConstRun) -> None:
        """End with a success that is on the failing path of the search."""
        self.won, self.ended, self.best = True, True, run
        self.steps, self.queries = 1, run.queries


def _failing_path(const: float, steps: int) -> list[float]:
    """Return every c of a search in which nothing succeeds."""
    search, path = _ConstSearch.at(0, const), []
    while not search.ended:
        path.append(search.const.item())
        search.learn(_ConstRun(0, path[-1]), steps)
    return path


class SharedSearches:
    """The runs that the searches for c of some cells need, image by image, each made once.

    Args:
        factory: Makes the rows.
        consts: The first c of each cell.

    Attributes:
        attack: The attack that moves the rows: a single step of the search.
        caused: Evaluations of the network that each cell has caused so far.
    """

    def __init__(self, factory: RowFactory, consts: list[float]) -> None:
        search: Any = factory.attack
        self.attack = replace(search, binary_search_steps=1)
        self.caused = Counter(dict.fromkeys(range(len(consts)), 0))
        self._factory, self._consts, self._steps = factory, consts, search.binary_search_steps
        self._first_success = factory.first_success.tolist()
        self._paths = [_failing_path(const, self._steps) for const in consts]
        self._next = 0
        self._runs: dict[int, dict[float, _ConstRun]] = {}  # of each image, by c
        self._searches: dict[int, list[_ConstSearch]] = {}
        self._queue: deque[_ConstRun] = deque()
        self._running: dict[int, _ConstRun] = {}  # by ticket
        self._tickets = 0

    def next_rows(self, count: int) -> tuple[Any, Tensor] | None:
        """Return fresh runs, those of images that have begun first."""
        while len(self._queue) < count and self._next < len(self._factory.x):
            self._open(self._next)
            self._next += 1
        runs = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
        if not runs:
            return None
        device = self._factory.x.device
        image = torch.tensor([run.image for run in runs], device=device)
        const = torch.tensor([run.const for run in runs], dtype=torch.float64, device=device)
        tickets = torch.arange(self._tickets, self._tickets + len(runs), device=device)
        self._tickets += len(runs)
        self._running.update(zip(tickets.tolist(), runs, strict=True))
        return self._factory.make(self.attack, image, const), tickets

    def observe(self, state: Any, tickets: Tensor) -> Iterator[FinishedRows]:
        """Yield nothing: a run counts when it is done."""
        return iter(())

    def finish(self, state: Any, tickets: Tensor) -> Iterator[FinishedRows]:
        """Let the searches learn from finished runs; yield the searches that end with them."""
        names = ("won", "invalid", "stalled", "queries", "best_l2", "best_f")
        facts = {name: getattr(state, name).tolist() for name in names}
        images = set()
        for row, ticket in enumerate(tickets.tolist()):
            run = self._running.pop(ticket)
            run.ended, run.success = True, facts["won"][row]
            for name in ("invalid", "stalled", "best_l2", "best_f"):
                setattr(run, name, facts[name][row])
            run.queries = facts["queries"][row] - self._factory.goal.asked
            run.best = state.best[row].clone()
            self.caused[run.cell] += run.queries
            images.add(run.image)
        for image in sorted(images):
            self._go_on(image, self._queue.appendleft)
        ended = [i for i in images if all(search.ended for search in self._searches[i])]
        if ended:
            yield self._as_rows(ended)

    def _open(self, image: int) -> None:
        """Begin the search of every cell on an image."""
        self._runs[image] = {}
        self._searches[image] = [_ConstSearch.at(n, c) for n, c in enumerate(self._consts)]
        self._go_on(image, self._queue.append)

    def _request(
        self, image: int, const: float, cell: int, queue: Callable[[_ConstRun], None]
    ) -> None:
        """Queue a run that a search needs, unless it has been queued before."""
        if const not in self._runs[image]:
            run = self._runs[image][const] = _ConstRun(image, const, cell)
            queue(run)

    def _go_on(self, image: int, queue: Callable[[_ConstRun], None]) -> None:
        """Advance the searches on one image as far as possible, and queue the runs they need."""
        runs, open_searches = self._runs[image], []
        for search in self._searches[image]:
            while not search.ended and (run := runs.get(search.const.item())) and run.ended:
                if run.success and self._first_success[image]:
                    search.win(run)
                else:
                    search.learn(run, self._steps)
            if not search.ended:
                open_searches.append(search)
        if not self._first_success[image]:
            for search in open_searches:
                self._request(image, search.const.item(), search.cell, queue)
            return
        open_searches = [search for search in open_searches if not self._won_ahead(image, search)]
        if open_searches and all(run.ended for run in runs.values()):
            paths = [set(self._paths[search.cell]) - runs.keys() for search in open_searches]
            # The c that most searches need; among equals the largest, which succeeds most easily.
            uses = Counter(const for path in paths for const in path)
            const = max(uses, key=lambda const: (uses[const], const))
            first = next(s for s, path in zip(open_searches, paths, strict=True) if const in path)
            self._request(image, const, first.cell, queue)

    def _won_ahead(self, image: int, search: _ConstSearch) -> bool:
        """End a search if a run on its failing path has succeeded; return whether it has ended."""
        ahead = (self._runs[image].get(const) for const in self._paths[search.cell])
        success = next((run for run in ahead if run and run.success), None)
        if success:
            search.win(success)
        return search.ended

    def _as_rows(self, images: list[int]) -> FinishedRows:
        """Return every search on these images as the row that would have made it alone."""
        device = self._factory.x.device
        searches = [(i, search) for i in images for search in self._searches.pop(i)]
        for i in images:
            del self._runs[i]
        image = torch.tensor([i for i, _ in searches], device=device)
        cell = torch.tensor([search.cell for _, search in searches], device=device)
        const = torch.tensor(self._consts, dtype=torch.float64, device=device)[cell]
        state = self._factory.make(self._factory.attack, image, const)
        for row, (_, search) in enumerate(searches):
            run = search.best
            assert run is not None and run.best is not None
            state.best[row] = run.best
            state.won[row] = search.won
            state.search[row] = search.steps
            state.queries[row] += search.queries
            state.invalid[row] |= search.invalid
            state.stalled[row] |= search.stalled
        return FinishedRows(cell, image, state)
