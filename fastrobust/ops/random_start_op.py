"""Random starts that depend on (seed, index, restart, pixel) alone."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .extension import kernels
from .philox import philox4x32, split
from .registry import registered

_WORD = 0xFFFFFFFF


def signed_seed(seed: int) -> int:
    """Return a checked seed as the signed 64-bit integer that a registered op takes."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in [0, 2^64), got {seed}")
    return seed - (seed >> 63 << 64)


def launch_start(
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
    """Write a random point of the eps-ball around x0 into x.

    Random numbers are Philox4x32-10 words with key (seed) and counter (pixel // 4, index, restart),
    word pixel % 4, of which the upper 24 bits count; so neither batch, order, slot nor device
    changes a start (on other devices L2 starts agree to rounding).

    - ``linf``: x0 + eps r with r uniform in [-1, 1), exact in float32;
    - ``l2``: uniform in the ball: a Gaussian direction (Box and Muller, words of restart + 2^31) at
      radius eps U^(1/n).

    Then, if given, the box [lo, hi]. NaN in x0 gives NaN.

    Args:
        x: (N, ...) float32 or float64, contiguous, overwritten.
        x0: (N, ...) centre of the balls.
        norm: "linf" or "l2".
        eps: radius of the ball, >= 0 in units of x; a number or (N,).
        seed: 0 <= seed < 2^64.
        index: (N,) int64 index of each image in its data set.
        restart: 0 <= restart < 2^31; a number or (N,) int64.
        lo: lower bound of a pixel, or None (the default: CleverHans 2.1.0 starts outside the box).
        hi: upper bound of a pixel, or None.

    Returns:
        x itself.

    Raises:
        ValueError: a shape, value or name is wrong, or x is not contiguous or is x0.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> x0, index = torch.zeros(2, 3), torch.tensor([0, 1])
        >>> x = fr.ops.random_start_(torch.empty(2, 3), x0, "linf", 0.1, 7, index, 0)
        >>> bool(x.abs().max() <= 0.1)
        True
    """
    signed_seed(seed)
    kernels.random_start_(x, x0, norm, eps, seed, index, restart, lo, hi)
    return x


def _rows_of(values: dict[str, Any]) -> None:
    """Bring numbers for all rows to tensors (N,), and the seed to a signed integer."""
    x = values["x"]
    if not isinstance(values["eps"], Tensor):
        values["eps"] = x.new_full(x.shape[:1], values["eps"])
    if not isinstance(values["restart"], Tensor):
        values["restart"] = torch.full(x.shape[:1], values["restart"], device=x.device)
    values["seed"] = signed_seed(values["seed"])


def _body(x: Tensor, x0: Tensor, norm: str, eps: Tensor, seed: int, *rest: Any) -> None:
    launch_start(x, x0, norm, eps, seed % 2**64, *rest)


random_start_ = registered(
    "random_start_",
    launch_start,
    mutates=("x",),
    schema="(Tensor(a!) x, Tensor x0, str norm, Tensor eps, int seed, Tensor index, "
    "Tensor restart, float? lo=None, float? hi=None) -> ()",
    body=_body,
    convert=_rows_of,
)


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
        bits = (
            _bits(seed, index, restart + 2**31, count + -count % 4)
            .to(x.dtype)
            .unflatten(1, (-1, 2))
        )
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
    blocks = np.arange((count + 3) // 4)
    images, restarts = (part.cpu().numpy()[:, None] for part in (index, restart))
    parts = np.broadcast_arrays(blocks, images & _WORD, images >> 32 & _WORD, restarts & _WORD)
    words = philox4x32(np.stack(parts, -1), split(seed))
    bits = torch.from_numpy(words.reshape(len(index), -1)[:, :count].astype(np.int64) >> 8)
    return bits.to(index.device)
