"""One update of an attack: step, project onto the eps-ball, then onto the box."""

from typing import Any

import torch
from torch import Tensor

from .extension import kernels
from .registry import registered


def launch_step(
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
    """Update x (and momentum) in place: ascend the gradient, then project.

    - ``sign``: x += step_size sign(g), into the linf ball (FGSM, BIM, PGD);
    - ``momentum``: m = decay m + g / max(1e-12, mean |g|), x += step_size sign(m), into the linf
      ball (MIM as in CleverHans 2.1.0);
    - ``l2``: x += step_size g / max(1e-12, |g|_2), into the L2 ball.

    Then every pixel goes into [lo, hi]. A row depends on itself alone, bit for bit. NaN: a pixel
    whose gradient is NaN does not move under ``sign`` (torch.sign(NaN) = 0); under ``momentum`` it
    makes its row's momentum NaN and the row stops, under ``l2`` its row of x becomes NaN; NaN in
    x stays NaN and NaN in x0 bounds nothing. An infinite gradient makes the rest of its row stop
    under ``momentum`` and ``l2``, where its own pixel becomes inf / inf = NaN.

    Args:
        x: (N, ...) iterate, float32 or float64, contiguous, overwritten.
        x0: (N, ...) centre of the balls.
        grad: (N, ...) gradient of the loss, to be ascended.
        momentum: (N, ...) overwritten, for kind "momentum"; else None.
        kind: "sign", "momentum" or "l2".
        eps: radius of the ball, >= 0 in units of x; a number or (N,).
        step_size: >= 0 in units of x; a number or (N,).
        decay: of the momentum (1 is the paper's).
        lo: lower bound of a pixel, or None.
        hi: upper bound of a pixel, or None.

    Returns:
        x itself.

    Raises:
        ValueError: a shape, value or name is wrong, or x is not contiguous or shares memory with
            another argument. (Values of a tensor on a GPU are not looked at.)
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> x0, grad = torch.tensor([[0.5, 0.95]]), torch.tensor([[-3.0, 2.0]])
        >>> fr.ops.step_(x0.clone(), x0, grad, None, "sign", eps=0.1, step_size=0.1)
        tensor([[0.4000, 1.0000]])
    """
    kernels.step_(x, x0, grad, momentum, kind, eps, step_size, decay, lo, hi)
    return x


def _rows_of(values: dict[str, Any]) -> None:
    """Bring a number for all rows to a tensor (N,), which the registered operation needs."""
    x = values["x"]
    for name in ("eps", "step_size"):
        if not isinstance(values[name], Tensor):
            values[name] = x.new_full(x.shape[:1], values[name])


def _body(*values: Any) -> None:
    launch_step(*values)


step_ = registered(
    "step_",
    launch_step,
    mutates=("x", "momentum"),
    schema="(Tensor(a!) x, Tensor x0, Tensor grad, Tensor(b!)? momentum, str kind, Tensor eps, "
    "Tensor step_size, float decay=1.0, float? lo=0.0, float? hi=1.0) -> ()",
    body=_body,
    convert=_rows_of,
)


def step(
    x: Tensor, x0: Tensor, grad: Tensor, momentum: Tensor | None, *rest: Any, **named: Any
) -> tuple[Tensor, Tensor | None]:
    """Do what :func:`step_` does on copies; returns the new x and momentum.

    Example:
        >>> import torch, fastrobust as fr
        >>> x, grad = torch.tensor([[0.5, 0.95]]), torch.tensor([[-3.0, 2.0]])
        >>> fr.ops.step(x, x, grad, None, "sign", eps=0.1, step_size=0.1)[0]
        tensor([[0.4000, 1.0000]])
    """
    x = x.clone(memory_format=torch.contiguous_format)
    if momentum is not None:
        momentum = momentum.clone(memory_format=torch.contiguous_format)
    return step_(x, x0, grad, momentum, *rest, **named), momentum


def into_ball(
    x: Tensor, x0: Tensor, eps: Tensor, norm: str, clip: tuple[float, float] | None
) -> Tensor:
    """Move images (N, ...) in place into the `norm` balls around `x0`, and into the box."""
    lo, hi = clip or (None, None)
    # A step of no length ends where every step does.
    return launch_step(x, x0, x0, None, "l2" if norm == "l2" else "sign", eps, 0.0, 0.0, lo, hi)


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
    if momentum is not None:
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
        lower, upper = start - eps, start + eps
        moved = torch.where(moved < lower, lower, moved)
        moved = torch.where(moved > upper, upper, moved)
    return x.copy_(moved.clamp(_or(lo, -torch.inf), _or(hi, torch.inf)).view_as(x))


def _column(value: float | Tensor, x: Tensor) -> Tensor:
    """Return a float or (N,) tensor as a column that broadcasts over flattened rows."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1, 1)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
