"""One proposal of the Square attack: a square of pixels of the best image so far is changed."""

import torch
from torch import Tensor

from ..build import kernels
from .start import random_start_ref_, signed_seed
from .step import step_ref_

_FIRST_SIGN = 5  # of a proposal's random numbers: those before it place windows


def square_(
    x: Tensor,
    held: Tensor,
    x0: Tensor,
    better: Tensor,
    sides: Tensor,
    eps: float | Tensor,
    seed: int,
    index: Tensor,
    query: Tensor,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> Tensor:
    """Keep x in the rows where it is better, and put x to the next proposal, in place.

    A linf proposal of Andriushchenko et al. (arXiv 1912.00049, algorithm 2): x is what is held, but
    for a window of pixels, which go to one end of [x0 - eps, x0 + eps], each channel to one of its
    own, and into the box [lo, hi]. Where that would change no pixel by half of what one could go,
    all of them go to the other end.

    Random numbers are those of :func:`random_start_` with `query` for the restart: number 0 and 1
    place the window, 5 and following are the channels' signs. A row depends on itself alone, bit
    for bit.

    Args:
        x: (N, C, H, W), (N, H, W) or (N, W) images, float32 or float64, contiguous, overwritten.
        held: the best images so far, like x, contiguous, overwritten where x is better.
        x0: centres of the balls, like x.
        better: (N,) bool, whether x takes the place of what is held.
        sides: (N, 2) int64 height and width of the window, from 1 to H and W.
        eps: radius of the ball, >= 0 in units of x; a number or (N,).
        seed: 0 <= seed < 2^64.
        index: (N,) int64 place of each image in its data set.
        query: (N,) int64 number of the proposal, 0 <= query < 2^31.
        lo: lower bound of a pixel, or None.
        hi: upper bound of a pixel, or None.

    Returns:
        x itself.

    Raises:
        ValueError: a shape or value is wrong (values of `sides` and `query` are looked at on the
            CPU only), or x or held is not contiguous or shares memory with another argument.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> x0 = torch.full((1, 1, 2, 2), 0.5)
        >>> better, sides = torch.tensor([False]), torch.tensor([[1, 1]])
        >>> at = torch.tensor([0])
        >>> x = fr.ops.square_(x0.clone(), x0.clone(), x0, better, sides, 0.1, 0, at, at)
        >>> int((x != x0).sum())
        1
    """
    rows = eps if isinstance(eps, Tensor) else x.new_full(x.shape[:1], eps)
    _square(x, held, x0, better, sides, rows, signed_seed(seed), index, query, lo, hi)
    return x


@torch.library.custom_op("fastrobust::square_", mutates_args=("x", "held"))
def _square(
    x: Tensor,
    held: Tensor,
    x0: Tensor,
    better: Tensor,
    sides: Tensor,
    eps: Tensor,
    seed: int,
    index: Tensor,
    query: Tensor,
    lo: float | None,
    hi: float | None,
) -> None:
    launch_square(x, held, x0, better, sides, eps, seed % 2**64, index, query, lo, hi)


@_square.register_fake
def _(
    x: Tensor,
    held: Tensor,
    x0: Tensor,
    better: Tensor,
    sides: Tensor,
    eps: Tensor,
    seed: int,
    index: Tensor,
    query: Tensor,
    lo: float | None,
    hi: float | None,
) -> None:
    return None


def launch_square(
    x: Tensor,
    held: Tensor,
    x0: Tensor,
    better: Tensor,
    sides: Tensor,
    eps: float | Tensor,
    seed: int,
    index: Tensor,
    query: Tensor,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> Tensor:
    """Call the kernel without PyTorch's dispatcher: as :func:`square_`, for inner loops."""
    kernels.square_(x, held, x0, better, sides, eps, seed, index, query, lo, hi)
    return x


def square_ref_(
    x: Tensor,
    held: Tensor,
    x0: Tensor,
    better: Tensor,
    sides: Tensor,
    eps: float | Tensor,
    seed: int,
    index: Tensor,
    query: Tensor,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> Tensor:
    """Do what :func:`square_` does in plain PyTorch."""
    if not x.numel():
        return x
    height, width = (1, x.shape[1]) if x.dim() == 2 else x.shape[-2:]
    shape = (len(x), -1, height, width)
    held[better] = x[better]
    channels = held.view(shape).shape[1]
    centre = x.new_zeros(len(x), _FIRST_SIGN + channels)
    draw = random_start_ref_(torch.empty_like(centre), centre, "linf", 1.0, seed, index, query)
    room = torch.tensor([height, width], device=x.device) - sides + 1
    first = ((draw[:, :2].double() + 1) / 2 * room).long()
    inside = [
        (place >= first[:, [axis]]) & (place < (first + sides)[:, [axis]])
        for axis, place in enumerate(torch.arange(n, device=x.device) for n in (height, width))
    ]
    window = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    signs = torch.where(draw[:, _FIRST_SIGN:] < 0, -1.0, 1.0).to(x.dtype)
    eps = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x))
    most = torch.inf if lo is None or hi is None else hi - lo
    same = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for way in (1, -1):
        change = (way * signs[:, :, None, None] * window).reshape(x.shape)
        moved = step_ref_(held.clone(), x0, change, None, "sign", eps, 2 * eps, 0.0, lo, hi)
        x[same] = moved[same]
        same &= (x - held).flatten(1).abs().amax(1) < eps.clamp(max=most) / 2
    return x
