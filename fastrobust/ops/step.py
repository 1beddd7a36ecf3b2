"""One update of a sign attack: step, project onto the eps-ball, then onto the box."""

import torch
from torch import Tensor

KINDS = ("sign", "momentum", "l2")


def step_(
    x: Tensor,
    x0: Tensor,
    grad: Tensor,
    momentum: Tensor | None,
    kind: str,
    eps: float | Tensor,
    step_size: float | Tensor,
    decay: float = 1.0,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> Tensor:
    """Update x (and momentum) in place."""
    return step_ref_(x, x0, grad, momentum, kind, eps, step_size, decay, lo, hi)


launch_step = step_


def step(
    x: Tensor,
    x0: Tensor,
    grad: Tensor,
    momentum: Tensor | None,
    kind: str,
    eps: float | Tensor,
    step_size: float | Tensor,
    decay: float = 1.0,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Do what :func:`step_` does on copies, and return them."""
    x, momentum = x.clone(), None if momentum is None else momentum.clone()
    return step_(x, x0, grad, momentum, kind, eps, step_size, decay, lo, hi), momentum


def step_ref_(
    x: Tensor,
    x0: Tensor,
    grad: Tensor,
    momentum: Tensor | None,
    kind: str,
    eps: float | Tensor,
    step_size: float | Tensor,
    decay: float = 1.0,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> Tensor:
    """Do what :func:`step_` does in plain PyTorch."""
    if x.numel() == 0:
        return x
    eps, step_size = _column(eps, x), _column(step_size, x)
    rows, start, direction = x.flatten(1), x0.flatten(1), grad.flatten(1)
    if kind == "momentum":
        size = direction.abs().mean(1, keepdim=True).clamp(min=1e-12)
        velocity = decay * momentum.flatten(1) + direction / size
        momentum.copy_(velocity.view_as(momentum))
        direction = velocity.sign()
    elif kind == "sign":
        direction = direction.sign()
    else:
        direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-12)
    moved = rows + step_size * direction
    if kind == "l2":
        offset = moved - start
        length = offset.norm(dim=1, keepdim=True)
        moved = torch.where(length > eps, start + offset * (eps / length), moved)
    else:
        moved = torch.minimum(torch.maximum(moved, start - eps), start + eps)
    return x.copy_(moved.clamp(_or(lo, -torch.inf), _or(hi, torch.inf)).view_as(x))


def _column(value: float | Tensor, x: Tensor) -> Tensor:
    """Return a float or (N,) tensor as a column that broadcasts over flattened rows."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1, 1)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
