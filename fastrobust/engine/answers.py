"""What a network answers about rows."""

from typing import NamedTuple

import torch
from torch import Tensor


class Answer(NamedTuple):
    """What the network says about N rows; everything is detached.

    Attributes:
        z: (N, d) pre-activations, at least float32.
        loss: (N,) the loss times the sign of the row.
        grad: (N, ...) its gradient by x, in x's dtype; (N, 0) where none was asked for.
        decision: (N,) int64 decided class.
        valid: (N,) bool, False where the network gave NaN.
    """

    z: Tensor
    loss: Tensor
    grad: Tensor
    decision: Tensor
    valid: Tensor


class Leaders(NamedTuple):
    """How the highest outputs of N rows change with their images; everything is detached.

    Attributes:
        z: (N, d) pre-activations, at least float32.
        gaps: (N, m - 1) each of the outputs that follow the highest one, less that one.
        slopes: (N, m - 1, ...) gradients of the gaps by x, in x's dtype.
        valid: (N,) bool, False where the network gave NaN.
    """

    z: Tensor
    gaps: Tensor
    slopes: Tensor
    valid: Tensor


def join(parts: list[Answer]) -> Answer:
    """Return the answers about parts of a batch as one."""
    return parts[0] if len(parts) == 1 else Answer(*map(torch.cat, zip(*parts, strict=True)))
