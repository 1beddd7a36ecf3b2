"""The norm of a convolution between zeros, by Lanczos' method on the convolution itself.

Golub and Kahan's bidiagonalization (SIAM J. Numer. Anal. B 2, 1965): A V = U B and A^T U = V B^T +
rest. It runs without reorthogonalization, so that memory does not grow with the steps: the largest
singular value comes out all the same, only smaller ones appear repeatedly (Paige 1972).
"""

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

Map = Callable[[Tensor], Tensor]

_RESIDUAL = 1e-10  # of the norm, at which the steps end; the norm is then right to its square
_SPEAK = 1e-6
_MOST = 600  # steps
_LOOK = 10  # steps between two looks at the small matrix


class Norm(NamedTuple):
    """A norm, and what is known of it.

    Attributes:
        value: the norm, differentiable; of a Lanczos search |A v| for a unit v: not above the norm.
        residual: |A^T u - value v| of the singular pair found, in units of `value`'s own: some
            singular value lies that near. 0 where a singular value decomposition gave it.
        upper: a proven upper bound.
        steps: of Lanczos' method.
    """

    value: Tensor
    residual: float
    upper: Tensor
    steps: int


def zero_padded(
    weight: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    zeros: tuple[int, int],
    upper: Tensor,
) -> Norm:
    """Find the norm of the convolution of a `size` input with `zeros` around it."""
    for n, pad, d, k in zip(size, zeros, dilation, weight.shape[2:], strict=True):
        if n + 2 * pad < d * (k - 1) + 1:
            raise ValueError(
                f"input_size and zeros must have room for the kernel, {d * (k - 1) + 1} wide, "
                f"got {n} + 2 * {pad}"
            )
    shape = (1, weight.shape[1] * groups, *size)
    kernel = weight.detach().double()

    def forward(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, None, stride, zeros, dilation, groups)

    def backward(y: Tensor) -> Tensor:
        return conv2d_input(shape, kernel, y, stride, zeros, dilation, groups)

    with torch.no_grad():
        v, steps = _right_vector(forward, backward, shape, kernel.device)
        y = forward(v)
        norm = float(y.norm())
        u = y / norm if norm else y
        residual = float((backward(u) - norm * v).norm())
    if residual > _SPEAK * norm:
        warnings.warn(
            f"the norm {norm:.6g} is certain to {residual:.1g} only after {steps} steps",
            UserWarning,
            stacklevel=3,
        )
    image = F.conv2d(v, weight.double(), None, stride, zeros, dilation, groups)
    return Norm((u * image).sum().to(weight.dtype), residual, upper, steps)


def _right_vector(
    forward: Map, backward: Map, shape: tuple[int, ...], device: torch.device
) -> tuple[Tensor, int]:
    """Return the unit vector that A stretches most, and the steps it took."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
    start /= start.norm()
    diagonal, above = [], []
    weights = torch.ones(1, dtype=torch.float64)
    # The first pass finds the coefficients of the vector; the second adds the vector up.
    for _, alpha, beta in _bidiagonal(forward, backward, start):
        diagonal.append(alpha)
        above.append(beta)
        steps = len(diagonal)
        if steps % _LOOK == 0 or steps == _MOST or alpha == 0 or beta == 0:
            small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            small += torch.diag(torch.tensor(above[:-1], dtype=torch.float64), 1)
            left, values, right = torch.linalg.svd(small)
            weights = right[0]
            if beta * abs(float(left[-1, 0])) <= _RESIDUAL * float(values[0]) or steps == _MOST:
                break
    total = torch.zeros_like(start)
    again = _bidiagonal(forward, backward, start)
    for weight in weights.tolist():
        total += weight * next(again)[0]
    length = float(total.norm())
    return (total / length if length else start), len(diagonal)


def _bidiagonal(
    forward: Map, backward: Map, start: Tensor
) -> Iterator[tuple[Tensor, float, float]]:
    """Yield v_i and the numbers alpha_i, beta_i of row i of B, without end."""
    v, u, beta = start, None, 0.0
    while True:
        u = forward(v) if u is None else forward(v) - beta * u
        alpha = float(u.norm())
        u = u / alpha if alpha else u
        rest = backward(u) - alpha * v
        beta = float(rest.norm())
        yield v, alpha, beta
        v = rest / beta if beta else rest
