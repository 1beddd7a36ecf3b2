"""One step of the Square attack: keep what is better, then change a square of pixels of it."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .extension import kernels
from .random_start_op import random_start_ref_, signed_seed
from .step_op import step_ref_

_FIRST_SIGN = 5  # of a proposal's random numbers: those before it place windows


@dataclass(kw_only=True)
class SquareRows:
    """The state of N rows; the first five tensors are overwritten by :func:`square_`.

    Attributes:
        x: (N, C, H, W), (N, H, W) or (N, W) images that the network is asked about next, float32 or
            float64.
        held: like x, the best images so far, from which the next ones are made.
        held_loss: (N,) float64 their losses; -inf before any.
        won: (N,) bool, whether they are successes.
        iteration: (N,) int64 images of this run that were asked about.
        x0: like x, centres of the balls.
        run: (N,) int64 runs before this one.
        eps: (N,) radii of the balls, in units of x.
        index: (N,) int64 index of each image in its data set.
        seed: of the random numbers, 0 <= seed < 2^64.
    """

    x: Tensor
    held: Tensor
    held_loss: Tensor
    won: Tensor
    iteration: Tensor
    x0: Tensor
    run: Tensor
    eps: Tensor
    index: Tensor
    seed: int

    @classmethod
    def fresh(cls, x0: Tensor, eps: Tensor, seed: int = 0) -> "SquareRows":
        """Return rows of which nothing was asked yet, and whose first images are x0 (N, ...)."""
        index = torch.arange(len(x0), device=x0.device)
        return cls(
            x=x0.clone(), held=x0.clone(), held_loss=index.double() - torch.inf,
            won=torch.zeros_like(index, dtype=torch.bool), iteration=torch.zeros_like(index),
            x0=x0, run=torch.zeros_like(index), eps=eps, index=index, seed=seed,
        )  # fmt: skip


_WRITTEN = [field.name for field in fields(SquareRows)][:5]


def square_(
    rows: Any,
    loss: Tensor,
    hit: Tensor,
    valid: Tensor,
    live: Tensor,
    sides: Tensor,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> None:
    """Compare the images asked about with the held ones, then put the next proposals into x.

    An x that is a hit, or whose loss is above the held one, is held from now on; NaN is above
    nothing, and an answer that is not valid changes nothing. Then x becomes a linf proposal of
    Andriushchenko et al. (arXiv 1912.00049, algorithm 2): what is held, but for a window of pixels,
    which go to one end of [x0 - eps, x0 + eps], each channel to one of its own, and into the box
    [lo, hi]. Where that would change none of them by half of what one could go, all of them go to
    the other end.

    Random numbers are those of :func:`random_start_` with `run` Q + `iteration` for the restart, Q
    being the length of `sides`, and the iteration the new one: number 0 and 1 place the window, 5
    and following are the channels' signs. A row depends on itself alone, bit for bit.

    Args:
        rows: a :class:`SquareRows`, or anything with its attributes; contiguous tensors.
        loss: (N,) float64 loss of x, to be raised.
        hit: (N,) bool, whether x is a success.
        valid: (N,) bool, whether the answer about x counts.
        live: (N,) bool, which rows are moved; others stay as they are, whatever they hold.
        sides: (Q, 2) int64 height and width, from 1 to H and W, of the window, for each number of
            images of a run; live rows have an iteration below Q.
        lo: lower bound of a pixel, or None.
        hi: upper bound of a pixel, or None.

    Raises:
        ValueError: a shape or value is wrong (of `iteration`, `run` and `sides` looked at on the
            CPU only), or a tensor that is written is not contiguous, or images share memory.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> rows = fr.ops.SquareRows.fresh(torch.full((1, 1, 2, 2), 0.5), torch.tensor([0.1]))
        >>> yes, sides = torch.tensor([True]), torch.tensor([[1, 1]])
        >>> fr.ops.square_(rows, torch.zeros(1).double(), ~yes, yes, yes, sides)
        >>> int((rows.x != rows.held).sum()), rows.held_loss.item()
        (1, 0.0)
    """
    written = [getattr(rows, name) for name in _WRITTEN]
    _square(
        *written, rows.x0, loss, hit, valid, live, sides, rows.eps, signed_seed(rows.seed),
        rows.index, rows.run, lo, hi,
    )  # fmt: skip


@torch.library.custom_op("fastrobust::square_", mutates_args=_WRITTEN)
def _square(
    x: Tensor, held: Tensor, held_loss: Tensor, won: Tensor, iteration: Tensor, x0: Tensor,
    loss: Tensor, hit: Tensor, valid: Tensor, live: Tensor, sides: Tensor, eps: Tensor, seed: int,
    index: Tensor, run: Tensor, lo: float | None, hi: float | None,
) -> None:  # fmt: skip
    kernels.square_(
        x, held, held_loss, won, iteration, x0, loss, hit, valid, live, sides, eps, seed % 2**64,
        index, run, lo, hi,
    )  # fmt: skip


@_square.register_fake
def _(*_: Any) -> None:
    return None


def launch_square(
    rows: Any,
    loss: Tensor,
    hit: Tensor,
    valid: Tensor,
    live: Tensor,
    sides: Tensor,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> None:
    """Call the kernel without PyTorch's dispatcher: as :func:`square_`, for inner loops."""
    written = [getattr(rows, name) for name in _WRITTEN]
    kernels.square_(
        *written, rows.x0, loss, hit, valid, live, sides, rows.eps, rows.seed, rows.index, rows.run,
        lo, hi,
    )  # fmt: skip


def square_ref_(
    rows: Any,
    loss: Tensor,
    hit: Tensor,
    valid: Tensor,
    live: Tensor,
    sides: Tensor,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> None:
    """Do what :func:`square_` does in plain PyTorch."""
    hit = hit & valid & live
    better = hit | (valid & live & (loss > rows.held_loss))
    rows.held[better] = rows.x[better]
    rows.held_loss.copy_(torch.where(better, loss, rows.held_loss))
    rows.won.logical_or_(hit)
    rows.iteration.add_(live)
    moves = live.nonzero().flatten()
    if rows.x[moves].numel():
        window = sides[rows.iteration[moves] - 1]
        query = rows.run[moves] * len(sides) + rows.iteration[moves]
        rows.x[moves] = _proposed(
            rows.held[moves], rows.x0[moves], rows.eps[moves], rows.index[moves], window,
            rows.seed, query, lo, hi,
        )  # fmt: skip


def _proposed(
    held: Tensor, x0: Tensor, eps: Tensor, index: Tensor, sides: Tensor, seed: int, query: Tensor,
    lo: float | None, hi: float | None,
) -> Tensor:  # fmt: skip
    """Return what is held (N, ...) with a window of sides (N, 2) at the ends of the ball."""
    height, width = (1, held.shape[1]) if held.dim() == 2 else held.shape[-2:]
    channels = held[0].numel() // (height * width)
    centre = held.new_zeros(len(held), _FIRST_SIGN + channels)
    draw = random_start_ref_(torch.empty_like(centre), centre, "linf", 1.0, seed, index, query)
    room = torch.tensor([height, width], device=held.device) - sides + 1
    first = ((draw[:, :2].double() + 1) / 2 * room).long()
    inside = [
        (pixel >= first[:, [axis]]) & (pixel < (first + sides)[:, [axis]])
        for axis, pixel in enumerate(torch.arange(n, device=held.device) for n in (height, width))
    ]
    window = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    signs = torch.where(draw[:, _FIRST_SIGN:] < 0, -1.0, 1.0).to(held.dtype)
    change = (signs[:, :, None, None] * window).reshape(held.shape)
    most = torch.inf if lo is None or hi is None else hi - lo
    one, other = (
        step_ref_(held.clone(), x0, way * change, None, "sign", eps, 2 * eps, 0.0, lo, hi)
        for way in (1, -1)
    )
    same = ((one - held) * change).flatten(1).abs().amax(1) < eps.clamp(max=most) / 2
    return torch.where(same.view(-1, *[1] * (held.dim() - 1)), other, one)
