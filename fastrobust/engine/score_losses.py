"""Losses on class scores in plain PyTorch, towards any rival or towards one of them.

The kernel behind :func:`fastrobust.ops.head` has the first kind; these also serve heads that it
does not know.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

ON_SCORES = ("ce", "margin", "dlr")
_TINY = 1e-12  # the guard of a quotient of scores, as in arXiv 2003.01690


def on_scores(name: str, rival: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss (scores (N, K), y (N,)) -> (N,) that is low where y is decided.

    Args:
        name: ``"ce"``, ``"margin"`` or ``"dlr"``.
        rival: (N,) int64 class to be decided instead of y; whichever is nearest if None.

    Raises:
        ValueError: there is no such loss, or too few classes for it.

    Example:
        >>> scores, y = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])
        >>> on_scores("margin")(scores, y), on_scores("margin", torch.tensor([1]))(scores, y)
        (tensor([-1.]), tensor([-2.]))
    """
    if name not in ON_SCORES:
        raise ValueError(f"loss must be one of {', '.join(ON_SCORES)} on scores, got {name!r}")
    if rival is None:
        return {"ce": _ce, "margin": _margin, "dlr": _dlr}[name]
    return partial({"ce": _ce_to, "margin": _margin_to, "dlr": _dlr_to}[name], rival)


def _ce(scores: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(scores, y, reduction="none")


def _margin(scores: Tensor, y: Tensor) -> Tensor:
    others = scores.scatter(1, y[:, None], -torch.inf)
    return _at(scores, others.detach().argmax(1)) - _at(scores, y)


def _dlr(scores: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, equation 6 of Croce and Hein (arXiv 2003.01690)."""
    _need(scores, 3)
    ranked = scores.sort(dim=1, descending=True).values
    return _margin(scores, y) / (ranked[:, 0] - ranked[:, 2] + _TINY)


def _ce_to(rival: Tensor, scores: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy to the rival, turned so that it goes up towards it."""
    return -F.cross_entropy(scores, rival, reduction="none")


def _margin_to(rival: Tensor, scores: Tensor, y: Tensor) -> Tensor:
    """How far the rival is above y: the loss of multi-targeted PGD (Gowal et al., 1910.09338)."""
    return _at(scores, rival) - _at(scores, y)


def _dlr_to(rival: Tensor, scores: Tensor, y: Tensor) -> Tensor:
    """Targeted difference of logits ratio, equation 7 of Croce and Hein (arXiv 2003.01690).

    Its divisor takes the mean of the third and fourth score. With three classes that is the third;
    with two there is no scale but the difference itself, and the margin is all that is left.
    """
    margin = _margin_to(rival, scores, y)
    ranked = scores.sort(dim=1, descending=True).values
    if ranked.shape[1] < 3:
        return margin
    return margin / (ranked[:, 0] - ranked[:, 2:4].mean(1) + _TINY)


def _at(scores: Tensor, index: Tensor) -> Tensor:
    return scores.gather(1, index[:, None])[:, 0]


def _need(scores: Tensor, least: int) -> None:
    if scores.shape[1] < least:
        raise ValueError(f"dlr needs at least {least} classes, got {scores.shape[1]}")
