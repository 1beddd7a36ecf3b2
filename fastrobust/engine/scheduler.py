"""Drives rules over rows: which of them the network sees next.

A rule (an attack) says how rows start, move and end; nothing here knows which attack it is.
:func:`run_batch` runs one batch to its end. :func:`run_continuous` runs any number of rows through
a fixed number of slots: a row that is done makes room for the next one, so that the network sees
one shape and does not wait for the last rows of a batch (continuous batching).
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .gradients import Oracle

T = TypeVar("T", covariant=True)


class Rule(Protocol):
    """What a driver knows of an attack."""

    @property
    def stride(self) -> int:
        """Updates between two looks at which rows are done: a look waits for the device."""

    @property
    def uneven(self) -> bool:
        """Whether some rows take many times as long as others."""

    def update(self, network: Oracle, state: Any) -> None:
        """Ask the network about every row and move it, in place; rows that are done stay."""

    def done(self, state: Any) -> Tensor:
        """Return which rows (N,) have ended."""


class RowSource(Protocol[T]):
    """Where rows come from, and what is made of them."""

    def next_rows(self, count: int) -> tuple[Any, Tensor] | None:
        """Return the state of at most `count` fresh rows and an int64 ticket (N,) for each.

        None where no row is left for now; rows that are done may bring new ones.
        """

    def observe(self, state: Any, tickets: Tensor) -> Iterable[T]:
        """Return what the slots give after an update; a ticket is -1 where a slot is empty."""

    def finish(self, state: Any, tickets: Tensor) -> Iterable[T]:
        """Return what the rows give that are done."""


def run_batch(rule: Rule, network: Oracle, state: Any) -> None:
    """Update rows in place until all are done; those that are leave the batch as it shrinks."""
    rows, batch = torch.arange(len(state), device=state.x.device), state
    stride = _stride(rule, state)
    while standing := len(batch) - int(rule.done(batch).sum()):
        # On a CPU a new shape costs nothing, and uneven rows leave one by one.
        exact = rule.uneven and not state.x.is_cuda
        size = _shrunk(len(batch), standing, exact)
        if size < len(batch):
            if batch is not state:
                state.put(rows, batch)
            order = rule.done(batch).int().argsort(stable=True)[:size]
            rows, batch = rows[order], batch.take(order)
        for _ in range(stride):
            rule.update(network, batch)
    if batch is not state:
        state.put(rows, batch)


def run_continuous(rule: Rule, network: Oracle, source: RowSource[T], size: int) -> Iterator[T]:
    """Run all rows of `source` in `size` slots; yield what it makes of them.

    Once no row waits, slots stay empty until the last row is done; under a rule whose rows are
    uneven half of the slots go whenever the other half is enough.
    """
    fresh = source.next_rows(size)
    if fresh is None:
        return
    state, tickets = padded(*fresh, size)
    stride = _stride(rule, state)
    while (tickets >= 0).any():
        ended = rule.done(state) & (tickets >= 0)
        if not ended.any():
            for _ in range(stride):
                rule.update(network, state)
                yield from source.observe(state, tickets)
            continue
        places = ended.nonzero().flatten()
        yield from source.finish(state.take(places), tickets[places])
        tickets[places] = -1
        empty = (tickets < 0).nonzero().flatten()
        while len(empty) and (fresh := source.next_rows(len(empty))) is not None:
            filled, empty = empty.split([len(fresh[1]), len(empty) - len(fresh[1])])
            state.put(filled, fresh[0])
            tickets[filled] = fresh[1]
        size = _shrunk(len(tickets), int((tickets >= 0).sum()))
        if rule.uneven and 0 < size < len(tickets):
            full = (tickets < 0).int().argsort(stable=True)[:size]
            state, tickets = state.take(full), tickets[full]


def padded(state: Any, tickets: Tensor, size: int) -> tuple[Any, Tensor]:
    """Fill up to `size` rows by copies of the last one that are done and bear no ticket."""
    rows = torch.arange(size, device=tickets.device).clamp_(max=len(tickets) - 1)
    spare = torch.arange(size, device=tickets.device) >= len(tickets)
    state, tickets = state.take(rows), tickets[rows].masked_fill(spare, -1)
    state.invalid |= spare
    return state, tickets


def _stride(rule: Rule, state: Any) -> int:
    """On a CPU a look costs nothing."""
    return rule.stride if state.x.is_cuda else 1


def _shrunk(size: int, standing: int, exact: bool = False) -> int:
    """Halve a batch while those standing fit: rows leave, and the network sees few shapes."""
    if exact:
        return standing
    while size // 2 >= max(standing, 1):
        size //= 2
    return size
