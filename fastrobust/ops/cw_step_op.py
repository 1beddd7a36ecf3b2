"""One iteration of Carlini and Wagner's L2 attack, each row at its own step of its search."""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .extension import kernels

NO_UPPER = 1e10  # means that no c has succeeded yet


@dataclass(kw_only=True)
class CwRows:
    """The state of N rows; all tensors but x0 and first_success are written by :func:`cw_step_`.

    Attributes:
        x0: (N, ...) clean images inside the box.
        first_success: (N,) bool, whether the first success ends the row.
        x: (N, ...) images that the network is asked about next.
        w: (N, ...) the same in tanh space: x = lo + (hi - lo) (tanh(w) + 1) / 2.
        m: (N, ...) Adam's first moment.
        v: (N, ...) Adam's second moment.
        origin: (N, ...) images at iteration 0, whose distance counts: x0 a little inside the box.
        best: (N, ...) the success of least distance, before any the image of least loss.
        best_l2: (N,) squared distance of `best` to the origin; inf before any.
        best_f: (N,) its loss.
        loss: (N,) the objective that the next look at its progress compares with.
        const: (N,) float64 weight c of the loss.
        lower: (N,) float64 largest c that failed.
        upper: (N,) float64 smallest c that succeeded, 1e10 before any.
        t: (N,) int64 iteration within this step of the search.
        search: (N,) int64 step of the search for c, -1 before the first call.
        found: (N,) bool, whether this step of the search has succeeded.
        won: (N,) bool, whether any has.
    """

    x0: Tensor
    first_success: Tensor
    x: Tensor
    w: Tensor
    m: Tensor
    v: Tensor
    origin: Tensor
    best: Tensor
    best_l2: Tensor
    best_f: Tensor
    loss: Tensor
    const: Tensor
    lower: Tensor
    upper: Tensor
    t: Tensor
    search: Tensor
    found: Tensor
    won: Tensor

    @classmethod
    def fresh(cls, x0: Tensor, const: Tensor, abort_from: float = math.inf) -> "CwRows":
        """Return rows that have not begun: the first :func:`cw_step_` only places them.

        Args:
            x0: (N, ...) clean images inside the box.
            const: (N,) first weight of the loss.
            abort_from: what the first look at the progress compares with.
        """
        const = const.double()
        zero, row = torch.zeros_like(const), x0.new_zeros(len(const))
        false = torch.zeros_like(const, dtype=torch.bool)
        images = {name: torch.zeros_like(x0) for name in ("w", "m", "v", "origin")}
        return cls(
            x0=x0, first_success=false, x=x0.clone(), **images, best=x0.clone(),
            best_l2=row + math.inf, best_f=row + math.inf, loss=row + abort_from,
            const=const.clone(), lower=zero, upper=zero + NO_UPPER,
            t=row.long(), search=row.long() - 1, found=false.clone(), won=false.clone(),
        )  # fmt: skip


_WRITTEN = [field.name for field in fields(CwRows) if field.name not in ("x0", "first_success")]


def cw_step_(
    rows: Any,
    grad: Tensor,
    f: Tensor,
    hit: Tensor,
    *,
    iterations: int = 1000,
    searches: int = 5,
    patience: int = 100,
    learning_rate: float = 5e-3,
    abort_from: float = math.inf,
    lo: float = 0.0,
    hi: float = 1.0,
) -> None:
    """Compare the images asked about with the best so far, then move every row, in place.

    With squared distance l2 to the origin and objective l2 + c max(f, 0):

    1. Every `patience` iterations the objective must have fallen below 0.9999 times what it was,
       or this step of the search ends before the image is judged.
    2. A hit is kept if it is the first or the nearest; without any, the image of least loss is.
    3. After `iterations` the step of the search ends: c goes halfway between the largest that
       failed and the smallest that succeeded, or to 10 c while none has; the row starts anew from
       x0. With 10 steps or more the last one takes the smallest c that succeeded.
    4. Otherwise Adam takes a step on w, in TensorFlow's form (epsilon outside of the correction).

    This is cleverhans v2.1.0's CarliniWagnerL2, image by image: a row depends on itself alone, bit
    for bit. A row whose `search` has reached `searches`, or that has won where its first success is
    enough, stays. A row with ``search = -1`` is put at iteration 0 and nothing else happens to it.
    NaN in a row's `f` or `grad` stays in that row.

    Args:
        rows: a :class:`CwRows`, or anything with its attributes; contiguous tensors.
        grad: (N, ...) gradient of f by x.
        f: (N,) loss, the hinge without its max; the search succeeds where it can fall to 0.
        hit: (N,) bool, whether x passes the attack's own test.
        iterations: of one step of the search, >= 1.
        searches: steps of the search for c, >= 1.
        patience: iterations between two looks at the progress; 0 for none.
        learning_rate: Adam's.
        abort_from: objective that the first look of a step compares with; cleverhans has 1e6.
        lo: lower bound of a pixel.
        hi: upper bound of a pixel.

    Raises:
        ValueError: a shape or a value is wrong, or a tensor that is written is not contiguous.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> rows = fr.ops.CwRows.fresh(torch.rand(2, 3), torch.ones(2))
        >>> for _ in range(4):
        ...     fr.ops.cw_step_(rows, torch.ones(2, 3), torch.ones(2), rows.won)
        >>> rows.t, bool((rows.x < rows.x0).all())
        (tensor([3, 3]), True)
    """
    written = [getattr(rows, name) for name in _WRITTEN]
    _cw_step(
        *written, rows.x0, grad, f, hit, rows.first_success,
        iterations, searches, patience, learning_rate, abort_from, lo, hi,
    )  # fmt: skip


@torch.library.custom_op("fastrobust::cw_step_", mutates_args=_WRITTEN)
def _cw_step(
    x: Tensor, w: Tensor, m: Tensor, v: Tensor, origin: Tensor, best: Tensor, best_l2: Tensor,
    best_f: Tensor, loss: Tensor, const: Tensor, lower: Tensor, upper: Tensor, t: Tensor,
    search: Tensor, found: Tensor, won: Tensor, x0: Tensor, grad: Tensor, f: Tensor, hit: Tensor,
    first_success: Tensor,
    iterations: int, searches: int, patience: int, learning_rate: float, abort_from: float,
    lo: float, hi: float,
) -> None:  # fmt: skip
    kernels.cw_step_(
        x, w, m, v, origin, best, best_l2, best_f, loss, const, lower, upper, t, search, found, won,
        x0, grad, f, hit, first_success,
        iterations, searches, patience, learning_rate, abort_from, lo, hi,
    )  # fmt: skip


@_cw_step.register_fake
def _(*_: Any) -> None:
    return None


def launch_cw_step(
    rows: Any,
    grad: Tensor,
    f: Tensor,
    hit: Tensor,
    iterations: int,
    searches: int,
    patience: int,
    learning_rate: float,
    abort_from: float,
    lo: float,
    hi: float,
) -> None:
    """Call the kernel without PyTorch's dispatcher: as :func:`cw_step_`, for inner loops."""
    written = [getattr(rows, name) for name in _WRITTEN]
    kernels.cw_step_(
        *written, rows.x0, grad, f, hit, rows.first_success,
        iterations, searches, patience, learning_rate, abort_from, lo, hi,
    )  # fmt: skip


def cw_step_ref_(
    rows: Any,
    grad: Tensor,
    f: Tensor,
    hit: Tensor,
    *,
    iterations: int = 1000,
    searches: int = 5,
    patience: int = 100,
    learning_rate: float = 5e-3,
    abort_from: float = math.inf,
    lo: float = 0.0,
    hi: float = 1.0,
) -> None:
    """Do what :func:`cw_step_` does in plain PyTorch."""
    r, none = rows, torch.zeros_like(rows.won)
    beside = (-1, *[1] * (r.x.dim() - 1))
    start = 0.999999 * (2 * ((r.x0 - lo) / (hi - lo)).clamp(0, 1) - 1)
    origin = (start.atanh().tanh() + 1) / 2 * (hi - lo) + lo
    fresh = r.search < 0
    live = ~fresh & (r.search < searches) & ~(r.first_success & r.won)

    gap = r.x - r.origin
    l2 = gap.flatten(1).square().sum(1)
    hinge = torch.where(f > 0, f, 0)
    objective = l2 + r.const.to(l2.dtype) * hinge
    look = live & (r.t % patience == 0) if patience else none
    aborted = look & (objective > 0.9999 * r.loss)
    r.loss.copy_(torch.where(look, objective, r.loss))
    hit = hit & live & ~aborted
    closer = l2 < r.best_l2
    lesser = (hinge < r.best_f) | ((hinge == r.best_f) & closer)
    better = torch.where(hit, ~r.won | closer, live & ~aborted & ~r.won & lesser)
    r.best.copy_(torch.where(better.view(beside), r.x, r.best))
    r.best_l2.copy_(torch.where(better, l2, r.best_l2))
    r.best_f.copy_(torch.where(better, hinge, r.best_f))
    r.found.logical_or_(hit)
    r.won.logical_or_(hit)

    step = (r.t + 1).double()
    rate = learning_rate * (1 - 0.999**step).sqrt() / (1 - 0.9**step)
    push = torch.where(hinge > 0, r.const.to(l2.dtype), 0).view(beside)
    slope = (hi - lo) / 2 / r.w.double().cosh().square().to(r.w.dtype)
    dw = torch.where(push > 0, 2 * gap + push * grad, 2 * gap) * slope
    begun = (r.t > 0).view(beside)
    m = 0.9 * torch.where(begun, r.m, 0) + 0.1 * dw
    v = 0.999 * torch.where(begun, r.v, 0) + 0.001 * dw.square()
    w = r.w - rate.to(r.w.dtype).view(beside) * m / (v.sqrt() + 1e-8)

    r.t.add_(live & ~aborted)
    ended = live & (aborted | (r.t >= iterations) | (hit & r.first_success))
    moves = (live & ~ended).view(beside)
    placed = (ended | fresh).view(beside)
    r.m.copy_(torch.where(moves, m, r.m))
    r.v.copy_(torch.where(moves, v, r.v))
    r.w.copy_(torch.where(placed, start.atanh(), torch.where(moves, w, r.w)))
    moved = (w.tanh() + 1) / 2 * (hi - lo) + lo
    r.origin.copy_(torch.where(placed, origin, r.origin))
    r.x.copy_(torch.where(placed, origin, torch.where(moves, moved, r.x)))

    ended_well = ended & r.found
    upper = torch.where(ended_well, torch.minimum(r.upper, r.const), r.upper)
    lower = torch.where(ended & ~r.found, torch.maximum(r.lower, r.const), r.lower)
    bracketed = upper < NO_UPPER / 10
    const = torch.where(r.found, r.const, r.const * 10)
    const = torch.where(bracketed, (lower + upper) / 2, const)
    r.search.add_(ended.long() + fresh.long())
    last = torch.full_like(none, searches >= 10) & (r.search == searches - 1)
    r.const.copy_(torch.where(ended, torch.where(last, upper, const), r.const))
    r.lower.copy_(lower)
    r.upper.copy_(upper)
    r.t.masked_fill_(ended, 0)
    r.found.masked_fill_(ended, False)
    r.loss.masked_fill_(ended, abort_from)
