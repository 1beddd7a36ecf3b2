"""The nearest point of a hyperplane inside a box, in linf and in L2, for many images at once."""

import torch
from torch import Tensor


def length(change: Tensor, norm: str) -> Tensor:
    """Norm of each row (N,) of changes (N, ...): ``"linf"`` or ``"l2"``."""
    rows = change.flatten(1)
    return rows.norm(dim=1) if norm == "l2" else rows.abs().amax(1)


def to_hyperplane(
    x: Tensor, w: Tensor, gap: Tensor, norm: str, clip: tuple[float, float] | None
) -> Tensor:
    """Return the shortest changes d with w.d = gap that keep x + d inside the box.

    The projection of Croce and Hein's FAB (arXiv 1907.02044): every pixel moves the way that w
    says, in linf as far as every other, in L2 in proportion to its weight, until it meets the box.
    What they bring together grows with how far they go, ever slower, and in straight lines between
    the places where a pixel stops. So Newton's method from below ends after a few steps, at the
    solution itself. Where the box holds no point of the hyperplane, x + d is a corner that is
    nearest to it; where w is zero, so is d.

    Args:
        x: (N, n) points of the box, float32 or float64.
        w: (N, n) normals.
        gap: (N,) what w.x lacks at the hyperplane.
        norm: ``"linf"`` or ``"l2"``.
        clip: (lo, hi), or None for no box.

    Returns:
        (N, n) changes, in x's dtype.

    Example:
        >>> x, w = torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 1.0]])
        >>> to_hyperplane(x, w, torch.tensor([0.5]), "l2", (0.0, 1.0))
        tensor([[0.4000, 0.1000]])
    """
    scale = w.abs().amax(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    w, need = w / scale, (gap / scale[:, 0]).abs()
    sign = w.sign() * gap.sign()[:, None]
    room = _room(x, sign, clip)
    speed = w.abs() if norm == "l2" else torch.ones_like(w)
    stop = torch.where(w == 0, torch.inf, room / speed)
    rate = w.abs() * speed

    far = need / rate.sum(1)  # as if no pixel stopped
    short = torch.ones_like(w[:, 0], dtype=torch.bool)
    while short.any():
        going = stop > far[:, None]
        brought = (rate * stop).masked_fill(going, 0.0).sum(1)
        farther = (need - brought) / (rate * going).sum(1)
        short = farther > far
        far = torch.where(short, farther, far)
    change = torch.minimum(far[:, None] * speed, room)
    return torch.where(w == 0, 0.0, sign * change)


def _room(x: Tensor, sign: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """How far each pixel may go the way of its sign."""
    if clip is None:
        return torch.full_like(x, torch.inf)
    return torch.where(sign > 0, clip[1] - x, x - clip[0])
