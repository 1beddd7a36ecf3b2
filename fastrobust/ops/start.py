"""Random starts that depend on (seed, index, restart, pixel) alone."""

import math

import torch
from torch import Tensor


def random_start_(
    x: Tensor,
    x0: Tensor,
    norm: str,
    eps: float | Tensor,
    seed: int,
    index: Tensor,
    restart: int | Tensor,
    lo: float | None = None,
    hi: float | None = None,
) -> Tensor:
    """Write a random point of the eps-ball around x0 into x."""
    return random_start_ref_(x, x0, norm, eps, seed, index, restart, lo, hi)


launch_start = random_start_


def random_start_ref_(
    x: Tensor,
    x0: Tensor,
    norm: str,
    eps: float | Tensor,
    seed: int,
    index: Tensor,
    restart: int | Tensor,
    lo: float | None = None,
    hi: float | None = None,
) -> Tensor:
    """Do what :func:`random_start_` does in plain PyTorch."""
    if x.numel() == 0:
        return x
    count = x[0].numel()
    eps = torch.as_tensor(eps, dtype=x.dtype, device=x.device).reshape(-1, 1)
    restart = torch.as_tensor(restart, device=x.device).expand(index.shape)
    if norm == "linf":
        offset = _bits(seed, index, restart, count).to(x.dtype) * 2**-23 - 1
    else:
        bits = _bits(seed, index, restart + 2**31, count + -count % 4).to(x.dtype).unflatten(1, (-1, 2))
        radius = (-2 * ((bits[..., 0] + 0.5) * 2**-24).log()).sqrt()
        angle = bits[..., 1] * (2**-24 * 2 * math.pi)
        offset = torch.stack((radius * angle.cos(), radius * angle.sin()), 2).flatten(1)[:, :count]
        share = (_bits(seed, index, restart, 1).to(x.dtype) + 0.5) * 2**-24
        offset = offset * (share ** (1 / count) / offset.norm(dim=1, keepdim=True))
    start = x0.flatten(1) + eps * offset
    lo, hi = -math.inf if lo is None else lo, math.inf if hi is None else hi
    return x.copy_(start.clamp(lo, hi).view_as(x))


def _bits(seed: int, index: Tensor, restart: Tensor, count: int) -> Tensor:
    """Return (N, count) random integers in [0, 2^24): word pixel % 4 of block pixel // 4."""
    word = 0xFFFFFFFF
    blocks = torch.arange((count + 3) // 4, device=index.device)
    counter = [blocks, index[:, None] & word, (index[:, None] >> 32) & word, restart[:, None] & word]
    a, b, c, d = (part.expand(len(index), len(blocks)) for part in counter)
    key = [seed & word, (seed >> 32) & word]
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(0xD2511F53, a), _product(0xCD9E8D57, c)
        a, b, c, d = high1 ^ b ^ key[0], low1, high0 ^ d ^ key[1], low0
        key = [(key[0] + 0x9E3779B9) & word, (key[1] + 0xBB67AE85) & word]
    return torch.stack((a, b, c, d), 2).flatten(1)[:, :count] >> 8


def _product(multiplier: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and low word of a 32 x 32 bit product, in 16-bit halves to stay in int64."""
    low, high = value * (multiplier & 0xFFFF), value * (multiplier >> 16)
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)
