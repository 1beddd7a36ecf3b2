"""The direction of a projected L-BFGS step: two-loop recursion inside a box, one visit per row."""

import torch
from torch import Tensor

from .extension import kernels
from .registry import registered


def launch_lbfgs(
    s: Tensor,
    y: Tensor,
    rho: Tensor,
    pairs: Tensor,
    x: Tensor,
    grad: Tensor,
    scale: float = 1.0,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute where every row's quasi-Newton model sends it, inside the box.

    A pixel at a bound whose gradient points out of the box is fixed, the others are free. H is the
    L-BFGS inverse Hessian of the pairs (s, y) that the row holds (Nocedal and Wright, Numerical
    Optimization, 2006, algorithm 7.4) with every s and y cut down to the free pixels, which keeps
    it positive definite; it starts from s.y / |y|^2 of the newest pair. Without pairs the row goes
    down its gradient: H is `scale`, and less where an open box would let the step be longer than 1
    (as in L-BFGS-B 3.0, lnsrlb). Then

        d = P(x - H g) - x,

    P being the projection onto the box, so that x + t d lies inside for every 0 <= t <= 1. Where
    that does not descend (g.d >= 0), d is what it would be without pairs. A row depends on itself
    alone, bit for bit. NaN in the gradient makes the slope NaN.

    Args:
        s: (N, m, ...) the last m moves of each row, float32 or float64: a ring in which move number
            p (from 0) is at p % m.
        y: (N, m, ...) the changes of the gradient that came with them.
        rho: (N, m) 1 / s.y of each pair, over all pixels; one that is not > 0 is left out.
        pairs: (N,) int64 moves that the row has made since it forgot; the last m of them count.
        x: (N, ...) where the row is, inside the box.
        grad: (N, ...) gradient of the objective, to be descended.
        scale: the inverse Hessian before there is a pair, > 0.
        lo: lower bound of a pixel, or None: the box is open.
        hi: upper bound of a pixel, or None: the box is open.

    Returns:
        (N, ...) the direction d and (N,) the slope g.d, which is < 0 but where d is 0.

    Raises:
        ValueError: a shape or value is wrong. (`pairs` on a GPU are not looked at.)
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> x, grad = torch.tensor([[0.0, 0.5, 0.9]]), torch.tensor([[0.4, 0.2, -0.3]])
        >>> s, pairs = torch.empty(1, 10, 3), torch.tensor([0])
        >>> fr.ops.lbfgs_direction(s, s.clone(), torch.zeros(1, 10), pairs, x, grad)[0]
        tensor([[ 0.0000, -0.2000,  0.1000]])
    """
    direction = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    slope = x.new_empty(x.shape[:1])
    kernels.lbfgs_direction(s, y, rho, pairs, x, grad, direction, slope, scale, lo, hi)
    return direction, slope


lbfgs_direction = registered(
    "lbfgs_direction",
    launch_lbfgs,
    fake=lambda s, y, rho, pairs, x, *_: (x.new_empty(x.shape), x.new_empty(x.shape[:1])),
)


def lbfgs_direction_ref(
    s: Tensor,
    y: Tensor,
    rho: Tensor,
    pairs: Tensor,
    x: Tensor,
    grad: Tensor,
    scale: float = 1.0,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> tuple[Tensor, Tensor]:
    """Do what :func:`lbfgs_direction` does in plain PyTorch."""
    shape, (x, grad) = x.shape, (x.flatten(1), grad.flatten(1))
    low, high = (-torch.inf if lo is None else lo), (torch.inf if hi is None else hi)
    free = ~(((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0)))
    rows, length = torch.arange(len(x), device=x.device), s.shape[1]
    free_grad = torch.where(free, grad, 0)

    recursion, gamma = [], torch.zeros_like(x[:, :1])
    q = free_grad
    for age in range(length):  # from the newest pair to the oldest
        slot = (pairs - 1 - age) % length
        shift, bend = s[rows, slot].flatten(1), y[rows, slot].flatten(1)
        weight = rho[rows, slot][:, None]
        held = (age < pairs)[:, None] & (weight > 0)
        gamma = torch.where(held & (gamma == 0), 1 / (weight * _dot(bend, bend)), gamma)
        shift, bend = torch.where(free & held, shift, 0), torch.where(free & held, bend, 0)
        alpha = weight * _dot(shift, q)
        q = q - alpha * bend
        recursion.append((shift, bend, weight, alpha))
    q = gamma * q
    for shift, bend, weight, alpha in reversed(recursion):
        q = q + (alpha - weight * _dot(bend, q)) * shift

    def inside(step: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(-step, low - x), high - x)

    size = torch.full_like(gamma, scale)
    if lo is None or hi is None:
        size = (1 / free_grad.norm(dim=1, keepdim=True)).clamp(max=scale)
    steepest = inside(size * free_grad)
    direction = inside(q)
    direction = torch.where((gamma > 0) & (_dot(grad, direction) < 0), direction, steepest)
    return direction.view(shape), _dot(grad, direction)[:, 0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)
