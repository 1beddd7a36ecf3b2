"""Box-constrained minimisation of many images at once, each by an L-BFGS of its own.

One call of :func:`descend` judges a trial point of every row and chooses the row's next one: a step
of a line search, or the first step along a new direction. All rows take part in every operation and
nothing waits for the device. The rules for stopping are those of SciPy's fmin_l_bfgs_b (Byrd, Lu,
Nocedal and Zhu, 1995), whose way through the box is another: here the direction of the free pixels
is projected onto the box, and the line search stays inside.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops.lbfgs_op import launch_lbfgs
from .state import Rows, State, beside

# Inverse Hessian before there is a history. In a closed box the first trial is then SciPy's, the
# whole P(x - g): where it lies has a say in which local minimum is found.
_SCALE = 1.0
# Trials of a line search, SciPy's maxls.
_TRIALS = 20
# Share of the promised decrease that a step must bring (Armijo).
_ARMIJO = 1e-4
# Where rounding hides a decrease, a slope of at most this share of the first one, the other way
# (Hager and Zhang, SIAM J. Optim. 16, 2005, (4.1) with delta = 0.1).
_UPHILL = 0.8


@dataclass(kw_only=True)
class DescentState(State):
    """Rows that minimise const * loss + squared distance from x0; numbers per row are float64.

    Attributes:
        const: (N,) weight of the loss.
        point: (N, ...) iterate; `x` is the trial point beyond it.
        found: (N,) bool, whether the point is decided as wished.
        loss: (N,) the loss there.
        l2: (N,) the squared distance there.
        grad: (N, ...) gradient of the objective there.
        direction: (N, ...) where the line search goes from there.
        slope: (N,) slope of the objective along it.
        step: (N,) share of the direction that leads to the trial point.
        trials: (N,) int64 number of the trial, 0 at the start of a minimisation.
        moves: (N,) int64 iterations made.
        pairs: (N,) int64 moves that the history has seen.
        shifts: (N, history, ...) the last moves, s.
        bends: (N, history, ...) the changes of the gradient that came with them, y.
        rho: (N, history) 1 / s.y.
    """

    const: Tensor
    point: Tensor
    found: Tensor
    loss: Tensor
    l2: Tensor
    grad: Tensor
    direction: Tensor
    slope: Tensor
    step: Tensor
    trials: Tensor
    moves: Tensor
    pairs: Tensor
    shifts: Tensor
    bends: Tensor
    rho: Tensor


class Rules(NamedTuple):
    """When a minimisation stops, and the box it stays in; see :class:`LBFGS`."""

    max_steps: int
    ftol: float
    gtol: float
    clip: tuple[float, float] | None

    def box(self, x: Tensor) -> Tensor:
        """Project onto the box."""
        return x if self.clip is None else x.clamp(*self.clip)


def starts(rows: Rows, const: Tensor, history: int) -> dict[str, Any]:
    """Return the fields of a :class:`DescentState` whose rows are at their images."""
    zero, none = torch.zeros_like(const), torch.zeros_like(rows.index)
    ring = rows.x0.new_zeros(len(rows), history, *rows.x0.shape[1:])
    return {
        "x": rows.x0.clone(),
        "const": const,
        "point": rows.x0.clone(),
        "found": none.bool(),
        **{name: zero.clone() for name in ("loss", "l2", "slope", "step")},
        **{name: torch.zeros_like(rows.x0) for name in ("grad", "direction")},
        **{name: none.clone() for name in ("trials", "moves", "pairs")},
        "shifts": ring,
        "bends": ring.clone(),
        "rho": rows.x0.new_zeros(len(rows), history),
    }


def restart(state: DescentState, rows: Tensor) -> None:
    """Put the marked rows (N,) back to their images, with all forgotten."""
    put(state.x, state.x0, rows)
    for number in (state.trials, state.moves, state.pairs):
        number.masked_fill_(rows, 0)


def descend(
    state: DescentState, loss: Tensor, grad: Tensor, hit: Tensor, counts: Tensor, rules: Rules
) -> Tensor:
    """Compare the trial points with the rules and choose the next ones, in place.

    Args:
        state: rows that have been asked about at `x`.
        loss: (N,) the loss there.
        grad: (N, ...) its gradient.
        hit: (N,) bool, whether the row is decided there as wished.
        counts: (N,) bool; other rows stay as they are.
        rules: when to stop.

    Returns:
        (N,) bool, the rows whose minimisation has ended, at `point`.
    """
    opening, const, offset = state.trials == 0, state.const, state.x - state.x0
    loss, l2 = loss.double(), dot(offset, offset)
    value, before = const * loss + l2, const * state.loss + state.l2
    rounding = 4 * torch.finfo(grad.dtype).eps * torch.maximum((const * loss).abs(), l2)
    grad = 2 * offset + beside(const.to(grad.dtype), grad) * grad
    slope = dot(grad, state.direction)

    fits = value <= before + _ARMIJO * state.step * state.slope
    fits |= (value <= before + rounding) & (slope <= -_UPHILL * state.slope)
    taken = counts & (opening | fits)
    moved = taken & ~opening
    spent = counts & ~taken & (state.trials >= _TRIALS)
    _remember(state, grad, moved)
    state.moves += moved

    largest = torch.maximum(before.abs(), value.abs()).clamp_min(1.0)
    still = (rules.box(state.x - grad) - state.x).abs().flatten(1).amax(1) <= rules.gtol
    ended = moved & (before - value <= rules.ftol * largest)
    ended |= (moved & (state.moves >= rules.max_steps)) | (taken & still)
    # A line search that fails is made again without the history, as SciPy does, but not twice.
    ended |= spent & (state.pairs == 0)
    state.pairs.masked_fill_(spent, 0)

    shorter = _shorter(before, state.slope, value, slope, state.step)
    put(state.point, state.x, taken)
    put(state.grad, grad, taken)
    state.found = torch.where(taken, hit, state.found)
    state.loss = torch.where(taken, loss, state.loss)
    state.l2 = torch.where(taken, l2, state.l2)
    direction, slope = launch_lbfgs(
        state.shifts, state.bends, state.rho, state.pairs, state.point, state.grad,
        _SCALE, *(rules.clip or (None, None)),
    )  # fmt: skip
    turned = taken | spent
    put(state.direction, direction, turned)
    state.slope = torch.where(turned, slope.double(), state.slope)
    state.step = torch.where(turned, 1.0, torch.where(counts, shorter, state.step))
    state.trials = torch.where(turned, 1, state.trials + counts)
    trial = state.point + beside(state.step.to(grad.dtype), grad) * state.direction
    put(state.x, rules.box(trial), counts)
    return ended


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row of images, (N,) float64."""
    return (a * b).flatten(1).sum(1, dtype=torch.float64)


def put(old: Tensor, new: Tensor, rows: Tensor) -> None:
    """Overwrite the marked rows (N,) of images."""
    torch.where(beside(rows, old), new, old, out=old)


def _remember(state: DescentState, grad: Tensor, moved: Tensor) -> None:
    """Keep the move and its change of the gradient, where the objective curves upwards."""
    s, y = state.x - state.point, grad - state.grad
    product = dot(s, y)
    keep = moved & (product > torch.finfo(s.dtype).eps * dot(y, y))
    rows, slot = torch.arange(len(s), device=s.device), state.pairs % state.rho.shape[1]
    new = (state.shifts, s), (state.bends, y), (state.rho, (1 / product).to(s.dtype))
    for ring, value in new:
        old = ring[rows, slot]
        ring[rows, slot] = torch.where(beside(keep, old), value, old)
    state.pairs += keep


def _shorter(value: Tensor, slope: Tensor, there: Tensor, its: Tensor, step: Tensor) -> Tensor:
    """Return a tenth to half of the step: there, the minimum of the cubic through both its ends.

    Nocedal and Wright, Numerical Optimization, 2006, (3.59).
    """
    bend = slope + its - 3 * (there - value) / step
    root = (bend.square() - slope * its).clamp_min(0).sqrt()
    shorter = step - step * (its + root - bend) / (its - slope + 2 * root)
    low, high = 0.1 * step, 0.5 * step
    return torch.where(shorter > low, torch.minimum(shorter, high), low)
