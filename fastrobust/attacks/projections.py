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
    How much they bring together is a concave function of how far they go, linear between the places
    where a pixel stops: with those in order, the answer is an exact quotient. Where the box holds
    no point of the hyperplane, x + d is a corner that is nearest to it; where w is zero, so is d.

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
    w, need = w / scale, (gap / scale[:, 0]).abs().double()
    sign = w.sign() * gap.sign()[:, None]
    room = _room(x, sign, clip)
    speed = w.abs() if norm == "l2" else torch.ones_like(w)
    yield_ = w.abs() * speed

    # In the order in which pixels stop: what those before bring, and how fast the others go on.
    stop, order = torch.where(w == 0, torch.inf, room / speed).double().sort(dim=1)
    rate = yield_.gather(1, order).double()
    brought = torch.where(stop.isinf(), 0.0, rate * stop)
    before = brought.cumsum(1) - brought
    going = rate.flip(1).cumsum(1).flip(1)
    short = before + going * stop < need[:, None]
    place = short.sum(1, keepdim=True)
    last = place.clamp(max=w.shape[1] - 1)
    far = (need[:, None] - before.gather(1, last)) / going.gather(1, last)
    far = far.masked_fill(place == w.shape[1], torch.inf).to(x.dtype)
    return torch.where(w == 0, 0.0, sign * torch.minimum(far * speed, room))


def _room(x: Tensor, sign: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """How far each pixel may go the way of its sign."""
    if clip is None:
        return torch.full_like(x, torch.inf)
    return torch.where(sign > 0, clip[1] - x, x - clip[0])
