"""L-BFGS: the nearest image of the target class, by a quasi-Newton method inside the box.

Follows cleverhans v2.1.0 (attacks.py, LBFGS, which the paper ran; Szegedy et al., arXiv 1312.6199)
with SciPy's fmin_l_bfgs_b taken apart: there one optimiser moves the whole batch as one vector on
the host, here every image has its own history, line search and end, all on the device.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..engine import Answer, Oracle
from ..objectives import Loss, largest_unit
from ..ops.lbfgs import launch_lbfgs
from .base import Attack
from .search import HIGHEST_CONST, bisect, first_const
from .state import Rows, State, beside, counters

# Inverse Hessian before there is a history: that of the squared distance.
_SCALE = 0.5
# Trial points of a line search, as SciPy's maxls.
_TRIALS = 20
# Share of the promised decrease that a step must bring (Armijo).
_ARMIJO = 1e-4
# Near a minimum rounding hides decreases, and slopes decide (Hager and Zhang, 2005, (4.1)).
_FLAT_SLOPE = 0.8


@dataclass(kw_only=True)
class LBFGSState(State):
    """State of L-BFGS; numbers per row are float64.

    Attributes:
        const: (N,) c, the weight of the loss, in the present minimisation.
        lower: (N,) greatest c that failed.
        upper: (N,) least c that succeeded.
        search: (N,) int64 minimisations finished.
        found: (N,) bool, whether `point` is decided as wished.
        won: (N,) bool, whether a minimisation has ended so.
        hasty: (N,) bool, True where the first success is enough.
        best: (N, ...) image to return.
        best_l2: (N,) its squared distance.
        best_f: (N,) its loss.
        point: (N, ...) iterate of the present minimisation.
        grad: (N, ...) gradient of the objective there.
        loss: (N,) the loss there.
        l2: (N,) squared distance there.
        direction: (N, ...) where the line search goes from there.
        slope: (N,) slope of the objective along it.
        step: (N,) how far along it `x` lies.
        trials: (N,) int64 number of the trial that `x` is, 0 at the start of a minimisation.
        moves: (N,) int64 iterations of the present minimisation.
        pairs: (N,) int64 moves that the history has seen.
        shifts: (N, history, ...) the last moves, s.
        bends: (N, history, ...) the changes of the gradient that came with them, y.
        rho: (N, history) 1 / s.y.
    """

    const: Tensor
    lower: Tensor
    upper: Tensor
    search: Tensor
    found: Tensor
    won: Tensor
    hasty: Tensor
    best: Tensor
    best_l2: Tensor
    best_f: Tensor
    point: Tensor
    grad: Tensor
    loss: Tensor
    l2: Tensor
    direction: Tensor
    slope: Tensor
    step: Tensor
    trials: Tensor
    moves: Tensor
    pairs: Tensor
    shifts: Tensor
    bends: Tensor
    rho: Tensor


@dataclass(frozen=True, repr=False)
class LBFGS(Attack[LBFGSState]):
    """TODO"""

    initial_const: float = 1e-2
    binary_search_steps: int = 5
    max_steps: int = 1000
    history: int = 10
    ftol: float = 2.2e-9
    gtol: float = 1e-5
    loss: Literal["train", "ce"] = "train"
    view: Literal["class", "units"] = "class"
    on_failure: Literal["best", "clean"] = "best"
    clip: tuple[float, float] | None = (0.0, 1.0)

    budget = "initial_const"

    def init(self, rows: Rows) -> LBFGSState:
        """Start every row at its image."""
        const = first_const(rows)
        nothing, count = torch.zeros_like(const), torch.zeros_like(rows.index)
        no, images = count.bool(), rows.x0.shape[1:]
        history = rows.x0.new_zeros(len(rows), self.history, *images)
        return LBFGSState(
            **vars(rows),
            **counters(rows),
            x=rows.x0.clone(),
            const=const,
            lower=nothing.clone(),
            upper=torch.full_like(const, HIGHEST_CONST),
            search=count.clone(),
            found=no.clone(),
            won=no.clone(),
            hasty=no.clone(),
            best=rows.x0.clone(),
            best_l2=torch.full_like(const, torch.inf),
            best_f=torch.full_like(const, torch.inf),
            point=rows.x0.clone(),
            grad=torch.zeros_like(rows.x0),
            loss=nothing.clone(),
            l2=nothing.clone(),
            direction=torch.zeros_like(rows.x0),
            slope=nothing.clone(),
            step=nothing.clone(),
            trials=count.clone(),
            moves=count.clone(),
            pairs=count.clone(),
            shifts=history,
            bends=history.clone(),
            rho=rows.x0.new_zeros(len(rows), self.history),
        )

    def require(self, sign: Tensor) -> None:
        """Refuse rows that want to leave a label."""
        if (sign > 0).any():
            raise ValueError("LBFGS must have a target in every row, got none: it is targeted only")

    def update(self, network: Oracle, state: LBFGSState) -> None:
        """Ask the network about every row and move it, in place."""
        live = ~self.done(state)
        answer = self.ask(network, state, live)
        if self.view == "units":
            assert state.label is not None
            own = largest_unit(network.head, answer.z, state.label)
            answer = answer._replace(decision=torch.where(own, state.y, -1))
        self.advance(state, answer, live)

    def advance(self, state: LBFGSState, answer: Answer, live: Tensor) -> None:
        """Judge the trial point, then choose the next one."""
        counts = live & answer.valid
        opening = state.trials == 0
        const = state.const
        # Rows are targeted: the answer holds minus the loss.
        loss, offset = -answer.loss.double(), state.x - state.x0
        l2 = _dot(offset, offset)
        value, before = const * loss + l2, const * state.loss + state.l2
        weight = beside(const.to(offset.dtype), offset)
        grad = 2 * offset - weight * answer.grad
        slope = _dot(grad, state.direction)

        size = torch.maximum((const * loss).abs(), l2)
        rounding = 4 * torch.finfo(answer.loss.dtype).eps * size
        fits = value <= before + _ARMIJO * state.step * state.slope
        fits |= (value <= before + rounding) & (slope <= -_FLAT_SLOPE * state.slope)
        taken = counts & (opening | fits)
        moved = taken & ~opening
        self._remember(state, grad, moved)
        state.moves += moved
        state.iteration += counts

        largest = torch.maximum(before.abs(), value.abs()).clamp_min(1.0)
        ended = moved & ((before - value <= self.ftol * largest) | (state.moves >= self.max_steps))
        still = (self._box(state.x - grad) - state.x).abs().flatten(1).amax(1) <= self.gtol
        ended |= taken & still
        flat = opening & ~answer.grad.flatten(1).any(1) & ~state.hit(answer.decision)
        state.stalled |= counts & flat

        shorter = _shorter(before, state.slope, value, slope, state.step)
        state.found = torch.where(taken, state.hit(answer.decision), state.found)
        state.loss = torch.where(taken, loss, state.loss)
        state.l2 = torch.where(taken, l2, state.l2)
        _put(state.point, state.x, taken)
        _put(state.grad, grad, taken)

        spent = counts & ~taken & (state.trials >= _TRIALS)
        ended |= spent & (state.pairs == 0)
        state.pairs.masked_fill_(spent, 0)
        lo, hi = self.clip or (None, None)
        direction, slope = launch_lbfgs(
            state.shifts, state.bends, state.rho, state.pairs,
            state.point, state.grad, _SCALE, lo, hi,
        )  # fmt: skip
        turned = taken | spent
        _put(state.direction, direction, turned)
        state.slope = torch.where(turned, slope.double(), state.slope)
        state.step = torch.where(turned, 1.0, torch.where(counts, shorter, state.step))
        state.trials = torch.where(turned, 1, state.trials + counts)
        trial = state.point + beside(state.step.to(offset.dtype), offset) * state.direction
        _put(state.x, self._box(trial), counts)
        self._finish(state, ended)

    def _remember(self, state: LBFGSState, grad: Tensor, moved: Tensor) -> None:
        """Keep the move and its change of the gradient, where the objective curves upwards."""
        s, y = state.x - state.point, grad - state.grad
        product = _dot(s, y)
        keep = moved & (product > torch.finfo(s.dtype).eps * _dot(y, y))
        rows, place = torch.arange(len(s), device=s.device), state.pairs % self.history
        new = (state.shifts, s), (state.bends, y), (state.rho, (1 / product).to(s.dtype))
        for ring, value in new:
            old = ring[rows, place]
            ring[rows, place] = torch.where(beside(keep, old), value, old)
        state.pairs += keep

    def _finish(self, state: LBFGSState, ended: Tensor) -> None:
        """Compare what the rows that have `ended` (N,) found, and start again at the next c."""
        nearer, lower = state.l2 < state.best_l2, state.loss < state.best_f
        better = ended & state.found & (nearer | ~state.won)
        if self.on_failure == "best":
            tie = (state.loss == state.best_f) & nearer
            better |= ended & ~state.found & ~state.won & (lower | tie)
        _put(state.best, state.point, better)
        state.best_l2 = torch.where(better, state.l2, state.best_l2)
        state.best_f = torch.where(better, state.loss, state.best_f)
        state.won |= ended & state.found
        following = bisect(state.found, state.const, state.lower, state.upper)
        for name, value in zip(("const", "lower", "upper"), following, strict=True):
            setattr(state, name, torch.where(ended, value, getattr(state, name)))
        state.search += ended
        for number in (state.trials, state.moves, state.pairs):
            number.masked_fill_(ended, 0)
        _put(state.x, state.x0, ended)

    def done(self, state: LBFGSState) -> Tensor:
        """All minimisations made, no gradient to follow, or a success where one is enough."""
        enough = (state.search >= self.binary_search_steps) | (state.hasty & state.won)
        return enough | state.stalled | state.invalid

    def verdict(self, network: Oracle, state: LBFGSState) -> Tensor:
        """Return the nearest success, or what `on_failure` says."""
        return state.best

    def claim(self, network: Oracle, state: LBFGSState, z: Tensor) -> Tensor:
        """Return whether a minimisation has ended in a success by the attack's own test."""
        return state.won

    @property
    def objective(self) -> Loss:
        """The loss to descend towards the target."""
        return self.loss

    @property
    def reads_units(self) -> bool:
        """Whether success is the largest unit's being the target vector's."""
        return self.view == "units"

    @property
    def starts_at_image(self) -> bool:
        """The first question of every minimisation is about the clean image."""
        return True

    @property
    def stride(self) -> int:
        """Ten: most rows are busy for hundreds of updates."""
        return 10

    def _box(self, x: Tensor) -> Tensor:
        return x if self.clip is None else x.clamp(*self.clip)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row (N,), float64."""
    return (a * b).flatten(1).sum(1, dtype=torch.float64)


def _put(old: Tensor, new: Tensor, rows: Tensor) -> None:
    """Overwrite the marked rows (N,) of images."""
    torch.where(beside(rows, old), new, old, out=old)


def _shorter(value: Tensor, slope: Tensor, there: Tensor, its: Tensor, step: Tensor) -> Tensor:
    """Return the minimum of the cubic through both ends of a step, a tenth to half of it.

    Nocedal and Wright, Numerical Optimization, 2006, (3.59).
    """
    bend = slope + its - 3 * (there - value) / step
    root = (bend.square() - slope * its).clamp_min(0).sqrt()
    shorter = step - step * (its + root - bend) / (its - slope + 2 * root)
    low, high = 0.1 * step, 0.5 * step
    return torch.where(shorter > low, torch.minimum(shorter, high), low)
