"""Rows of an attack: what is asked of each image, and how far its attack has come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, cast

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Rows:
    """What is asked: N images, each with its own label, direction and eps or weight.

    Every tensor field of this class and of its subclasses has rows along its leading dimension, so
    :meth:`take` and :meth:`put` move single rows in and out of a batch, whatever the attack keeps.

    Attributes:
        x0: (N, ...) clean images.
        y: (N,) int64 label to leave, or target to reach.
        sign: (N,) 1 in untargeted rows, -1 in targeted rows: the factor of the loss to climb.
        index: (N,) int64 index of the image in its data set, the key of its random numbers.
        seed: seed of the random numbers, shared by the rows.
        eps: (N,) radius of the row's ball in pixel units, for attacks inside a ball.
        initial_const: (N,) float64 first weight of the loss, for attacks that search for it.
        label: (N, d) label vector beside the output units, for attacks in units view.
        rivals: (N, T) int64 classes to be decided as, for attacks that go for one after another.
    """

    x0: Tensor
    y: Tensor
    sign: Tensor
    index: Tensor
    seed: int
    eps: Tensor | None = None
    initial_const: Tensor | None = None
    label: Tensor | None = None
    rivals: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x0)

    def take(self, rows: Tensor) -> Self:
        """Return a copy of the rows that `rows`, (M,) int64, names."""
        taken: dict[str, Any] = {name: value[rows] for name, value in self._tensors()}
        return replace(self, **taken)

    def put(self, rows: Tensor, other: Self) -> None:
        """Overwrite the rows that `rows`, (M,) int64, names by those of `other`."""
        new: dict[str, Any] = vars(other)
        for name, value in self._tensors():
            value[rows] = new[name]

    def join(self, others: Sequence[Self]) -> Self:
        """Return these rows and then those of `others`."""
        whole = {
            name: torch.cat([value, *(vars(other)[name] for other in others)])
            for name, value in self._tensors()
        }
        return replace(self, **cast(Any, whole))

    def hit(self, decision: Tensor) -> Tensor:
        """Return whether the decision (N,) is the target, or another than the label to leave."""
        return (decision == self.y) == (self.sign < 0)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield field.name, value


@dataclass(kw_only=True)
class State(Rows):
    """How far each row has come: what every rule keeps.

    Attributes:
        x: (N, ...) images at which the network is asked next.
        iteration: (N,) int64 updates made.
        queries: (N,) int64 forwards and backwards that the row has cost.
        invalid: (N,) bool, True where the network gave NaN.
        stalled: (N,) bool, True where the attack stopped since all its gradients were zero.
        rival: (N,) int64 class that the row now tries to be decided as, where it goes for one.
    """

    x: Tensor
    iteration: Tensor
    queries: Tensor
    invalid: Tensor
    stalled: Tensor
    rival: Tensor | None = None


@dataclass(kw_only=True)
class BallState(State):
    """State of rows that stay inside a ball of radius `eps` (N,)."""

    eps: Tensor


def beside(flags: Tensor, images: Tensor) -> Tensor:
    """View one value per row (N,) so that it broadcasts over images (N, ...)."""
    return flags.view(-1, *[1] * (images.dim() - 1))


def counters(rows: Rows) -> dict[str, Any]:
    """Return the fields of a :class:`State` that every rule starts at zero."""
    zeros = torch.zeros_like(rows.index)
    return {
        "iteration": zeros,
        "queries": zeros.clone(),
        "invalid": zeros.bool(),
        "stalled": zeros.bool(),
    }
