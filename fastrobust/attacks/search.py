"""The search over c, the weight of an attack's loss against the distance from the image."""

import torch
from torch import Tensor

from .state import Rows

HIGHEST_CONST = 1e10
_NO_SUCCESS_YET = 1e9


def first_const(rows: Rows) -> Tensor:
    """Return the c (N,) that the rows start with, in float64.

    Raises:
        ValueError: one is zero, from which no search gets away.
    """
    assert rows.initial_const is not None
    if not (rows.initial_const > 0).all():
        raise ValueError("initial_const must be > 0 in every row, got 0")
    return rows.initial_const.to(torch.float64, copy=True)


def bisect(found: Tensor, const: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
    """Return the next c of each row and the bounds around it, as cleverhans v2.1.0 searches.

    After a success c is halved towards the greatest that failed. After a failure it is 10 times as
    much, or half way to the least that succeeded. (Carlini and Wagner, arXiv 1608.04644, and
    attacks_tf.py of cleverhans; there, ten or more steps spend the last one at `upper` again.)

    Args:
        found: (N,) bool, whether c led to a success.
        const: (N,) that c.
        lower: (N,) greatest c that failed, 0 at first.
        upper: (N,) least c that succeeded, `HIGHEST_CONST` at first.

    Returns:
        (N,) each: const, lower, upper.
    """
    upper = torch.where(found, torch.minimum(upper, const), upper)
    lower = torch.where(found, lower, torch.maximum(lower, const))
    middle = (lower + upper) / 2
    beyond = torch.where(found, const, const * 10)
    return torch.where(upper < _NO_SUCCESS_YET, middle, beyond), lower, upper
