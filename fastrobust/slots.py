"""Drives rules over rows: which of them the network sees next.

A rule (an attack) says how rows start, move and end; nothing here knows which attack it is.
:func:`drive` runs one batch to its end.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from .engine import Oracle


class Rule(Protocol):
    """What a driver knows of an attack."""

    @property
    def stride(self) -> int:
        """Updates between two looks at which rows are done: a look waits for the device."""

    def update(self, network: Oracle, state: Any) -> None:
        """Ask the network about every row and move it, in place; rows that are done stay."""

    def done(self, state: Any) -> Tensor:
        """Return which rows (N,) have ended."""


def drive(rule: Rule, network: Oracle, state: Any) -> None:
    """Update rows until all are done; those that are leave the batch as it shrinks."""
    rows = torch.arange(len(state), device=state.x.device)
    batch = state.take(rows)
    while standing := int((~rule.done(batch)).sum()):
        size = _shrunk(len(batch), standing)
        if size < len(batch):
            state.put(rows, batch)
            order = rule.done(batch).int().argsort(stable=True)[:size]
            rows, batch = rows[order], batch.take(order)
        for _ in range(rule.stride):
            rule.update(network, batch)
    state.put(rows, batch)


def _shrunk(size: int, standing: int) -> int:
    """Halve a batch while those standing fit: rows leave, and the network sees few shapes."""
    while size // 2 >= standing:
        size //= 2
    return size
