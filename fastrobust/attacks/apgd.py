"""Auto-PGD: a descent that finds its own step sizes, towards any class or towards each in turn.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, arXiv 2003.01690, section 3 and algorithm 1. Constants are the
paper's.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ..engine.answers import Answer
from ..engine.gradients import Oracle
from ..engine.objectives import Loss
from ..ops.random_start_op import launch_start
from ..ops.step_op import into_ball, launch_step
from .base import Attack
from .fields import AnyLoss, Count, CountFromZero, MaybeBox, NonNegative
from .state import BallState, Rows, beside, counters

_FIRST_WINDOW = 0.22  # of the steps, until the step size is looked at for the first time
_SHRINK, _LEAST = 0.03, 0.06  # how much shorter each window is than the last, and the shortest
_INERTIA = 0.25  # share of the last change that goes on: 1 - alpha


@dataclass(kw_only=True)
class APGDState(BallState):
    """State of APGD; ``iteration`` counts the steps of this run.

    Attributes:
        run: (N,) int64 runs before this one: restarts, times rivals.
        size: (N,) step size.
        last: (N, ...) the iterate before x.
        top, top_grad, top_loss: (N, ...), (N, ...), (N,) the iterate of highest loss in this run,
            the gradient there, and the loss.
        prior_loss: (N,) loss of the iterate before x.
        rises: (N,) int64 steps of this window that made the loss rise.
        seen_loss: (N,) `top_loss` when the size was last looked at.
        halved: (N,) bool, whether it was halved then.
        best, best_loss: (N, ...), (N,) the first success, else the iterate of highest loss of all
            runs.
        won: (N,) bool, whether an iterate was decided as wished.
    """

    run: Tensor
    size: Tensor
    last: Tensor
    top: Tensor
    top_grad: Tensor
    top_loss: Tensor
    prior_loss: Tensor
    rises: Tensor
    seen_loss: Tensor
    halved: Tensor
    best: Tensor
    best_loss: Tensor
    won: Tensor


@dataclass(frozen=True, repr=False)
class APGD(Attack[APGDState]):
    """Auto-PGD (Croce and Hein 2020): step sizes are halved when the loss stops rising.

    A step goes from x by the size along the sign of the gradient (in L2 along the gradient itself),
    back into ball and box, and takes a quarter of the last change with it (equation 3). At
    checkpoints, after 22% of the steps and then in windows that shrink by 3% down to 6%, the size
    is halved and the search goes back to its best iterate if fewer than `rho` of the steps made the
    loss rise, or if nothing has improved at an unhalved size (conditions 1 and 2). The first size
    is 2 eps. A success ends the row; without one the iterate of highest loss comes back.

    With `targets` the loss is one towards a rival class (``"dlr"``: equation 7), and each of the
    classes of highest score at the image gets a run of its own: APGD-T. A wish to reach a target of
    the caller's has no rivals.

    Args:
        eps: radius of the ball, in pixel units and the units of `norm`.
        loss: as in :class:`~fastrobust.attacks.FGSM`; with targets ``"ce"``, ``"margin"`` or
            ``"dlr"``.
        steps: steps of a run.
        restarts: runs from different random starts; with targets, of each rival.
        targets: number of rival classes to go for, 0 for none. All are if there are fewer.
        norm: ``"linf"`` or ``"l2"``.
        rho: share of rising steps below which the size is halved.
        clip: box of the pixels, or None for no box.

    Raises:
        ValueError, TypeError: a field out of its range or of a wrong type; from a run with
            `targets`, a target.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
        >>> attack = APGD(eps=0.1, loss="dlr", targets=3, steps=20)
        >>> result = attack.run(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
        >>> bool((result.linf <= 0.1 + 1e-6).all())
        True
    """

    per_row = "eps"

    eps: NonNegative
    loss: AnyLoss = "ce"
    steps: Count = 100
    restarts: Count = 1
    targets: CountFromZero = 0
    norm: Literal["linf", "l2"] = "linf"
    rho: NonNegative = 0.75
    clip: MaybeBox = (0.0, 1.0)

    def init(self, rows: Rows) -> APGDState:
        """Start every row at random inside its ball."""
        low = torch.full_like(rows.sign, -torch.inf, dtype=torch.float64)
        zeros = torch.zeros_like(rows.index)
        state = APGDState(
            **vars(rows),
            **counters(rows),
            rival=None if rows.rivals is None else rows.y.clone(),
            x=rows.x0.clone(),
            run=zeros.clone(),
            size=torch.zeros_like(rows.sign),
            last=rows.x0.clone(),
            top=rows.x0.clone(),
            top_grad=torch.zeros_like(rows.x0),
            top_loss=low.clone(),
            prior_loss=low.clone(),
            rises=zeros.clone(),
            seen_loss=low.clone(),
            halved=torch.zeros_like(zeros, dtype=torch.bool),
            best=rows.x0.clone(),
            best_loss=low.clone(),
            won=torch.zeros_like(zeros, dtype=torch.bool),
        )
        self._begin(state)
        return state

    def start_at(self, state: APGDState, start: Tensor) -> None:
        """Put fresh rows at images (N, ...), moved into ball and box."""
        state.x.copy_(start)
        into_ball(state.x, state.x0, state.eps, self.norm, self.clip)
        state.last.copy_(state.x)

    def advance(self, state: APGDState, answer: Answer, live: Tensor) -> None:
        """Look at the iterate and at the progress so far, then take a step."""
        loss = answer.loss.double()
        hit = live & answer.valid & state.hit(answer.decision)
        best = hit | (live & answer.valid & (loss > state.best_loss))
        torch.where(beside(best, state.x), state.x, state.best, out=state.best)
        state.best_loss = torch.where(best, loss, state.best_loss)
        state.won |= hit
        state.rises += (loss > state.prior_loss) & (state.iteration > 0)
        state.prior_loss = loss
        better = (loss > state.top_loss) | (state.iteration == 0)
        for kept, new in ((state.top, state.x), (state.top_grad, answer.grad)):
            torch.where(beside(better, new), new, kept, out=kept)
        state.top_loss = torch.where(better, loss, state.top_loss)
        self._step(state, self._checked(state, answer.grad))
        state.iteration += 1
        again = live & (state.iteration > self.steps) & (state.run + 1 < self._runs(state))
        if again.any():
            self._renew(state, again.nonzero().flatten())

    def done(self, state: APGDState) -> Tensor:
        """All runs made, or a success."""
        spent = (state.iteration > self.steps) & (state.run + 1 >= self._runs(state))
        return spent | state.won | state.invalid

    def adversarial(self, network: Oracle, state: APGDState) -> Tensor:
        """Return the first success, else the iterate of highest loss."""
        return state.best

    def claim(self, network: Oracle, state: APGDState, z: Tensor, decision: Tensor) -> Tensor:
        """Return whether an iterate was decided as wished."""
        return state.won

    @property
    def objective(self) -> Loss:
        """The loss to climb."""
        return self.loss

    def _begin(self, state: APGDState) -> None:
        """Put rows at the start of their run."""
        lo, hi = self.clip or (None, None)
        launch_start(
            state.x, state.x0, self.norm, state.eps, state.seed, state.index, state.run, lo, hi
        )
        self.choose(state, state.run)
        state.last.copy_(state.x)
        state.size.copy_(2 * state.eps)
        # In the first window the loss itself must rise: there is no size that it could have kept.
        state.halved.fill_(True)
        state.iteration.zero_()
        state.rises.zero_()

    def _checked(self, state: APGDState, grad: Tensor) -> Tensor:
        """At a checkpoint halve the size of rows that make no progress, and take them back.

        Returns the gradient (N, ...) at ``state.x``, which then is another one.
        """
        window = _windows(self.steps, state.x.device)[state.iteration.clamp(max=self.steps)]
        due = window > 0
        if not state.x.is_cuda and not due.any():
            return grad
        slow = state.rises < self.rho * window
        stuck = ~state.halved & (state.top_loss <= state.seen_loss)
        halve = due & (slow | stuck)
        state.size = torch.where(halve, state.size / 2, state.size)
        back = beside(halve, state.x)
        torch.where(back, state.top, state.x, out=state.x)
        state.prior_loss = torch.where(halve, state.top_loss, state.prior_loss)
        state.halved = torch.where(due, halve, state.halved)
        state.seen_loss = torch.where(due, state.top_loss, state.seen_loss)
        state.rises = state.rises.masked_fill(due, 0)
        return torch.where(back, state.top_grad, grad)

    def _step(self, state: APGDState, grad: Tensor) -> None:
        lo, hi = self.clip or (None, None)
        kind = "l2" if self.norm == "l2" else "sign"
        there = state.x.clone()
        launch_step(there, state.x0, grad, None, kind, state.eps, state.size, 0.0, lo, hi)
        first = beside(state.iteration == 0, state.x)
        inertia = torch.where(first, 0.0, _INERTIA).to(state.x.dtype)
        there.lerp_(2 * state.x - state.last, inertia)
        state.last.copy_(state.x)
        state.x.copy_(there)
        into_ball(state.x, state.x0, state.eps, self.norm, self.clip)

    def _renew(self, state: APGDState, rows: Tensor) -> None:
        """Begin the next run of `rows`, (M,) int64."""
        again = state.take(rows)
        again.run += 1
        self._begin(again)
        state.put(rows, again)

    def _runs(self, state: APGDState) -> int:
        return self.restarts * (1 if state.rivals is None else max(state.rivals.shape[1], 1))


@cache
def _windows(steps: int, device: torch.device) -> Tensor:
    """For each iterate 0..steps the length of the window that ends there, 0 where none does."""
    lengths = torch.zeros(steps + 1, dtype=torch.int64)
    length = max(int(_FIRST_WINDOW * steps), 1)
    shrink, least = max(int(_SHRINK * steps), 1), max(int(_LEAST * steps), 1)
    end = length
    while end <= steps:
        lengths[end] = length
        length = max(length - shrink, least)
        end += length
    return lengths.to(device)
