"""The rule of the sign family: climb the loss in steps of fixed size inside an eps-ball."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.answers import Answer
from ..engine.gradients import Oracle
from ..engine.objectives import Loss
from ..ops.random_start_op import launch_start
from ..ops.step_op import launch_step
from .base import Attack
from .state import BallState, Rows, beside, counters


@dataclass(kw_only=True)
class SignState(BallState):
    """State of a sign attack.

    Attributes:
        restart: (N,) int64 runs before this one: restarts, times rivals.
        won: (N,) bool, whether an iterate has succeeded.
        momentum: (N, ...) running sum of gradients, or None.
        best: (N, ...) best iterate so far, or None where the last one is returned.
        best_loss: (N,) its loss, times the row's sign.
    """

    restart: Tensor
    won: Tensor
    best_loss: Tensor
    momentum: Tensor | None
    best: Tensor | None


class SignAttack(Attack[SignState]):
    """The rule of the family; what a subclass does not have as a field is set here."""

    per_row = "eps"
    eps: float
    loss: Loss
    step_size: float | None = None  # eps itself
    steps: int = 1
    decay: float = 0.0
    random_start: bool = False
    restarts: int = 1
    norm: str = "linf"
    keep: str = "last"

    def init(self, rows: Rows) -> SignState:
        """Start every row at its image, or at random inside its ball."""
        state = SignState(
            **vars(rows),
            **counters(rows),
            x=rows.x0.clone(),
            restart=torch.zeros_like(rows.index),
            won=torch.zeros_like(rows.index, dtype=torch.bool),
            best_loss=torch.full_like(rows.sign, -torch.inf, dtype=torch.float64),
            momentum=torch.zeros_like(rows.x0) if self._kind == "momentum" else None,
            best=rows.x0.clone() if self.ends_early else None,
            rival=None if rows.rivals is None else rows.y.clone(),
        )
        self._start(state)
        return state

    def advance(self, state: SignState, answer: Answer, live: Tensor) -> None:
        """Look at the iterate, then take a step from it."""
        self._look(state, answer, live)
        lo, hi = self.clip or (None, None)
        size = state.eps if self.step_size is None else self.step_size
        launch_step(
            state.x, state.x0, answer.grad, state.momentum,
            self._kind, state.eps, size, self.decay, lo, hi,
        )  # fmt: skip
        spent = live & (state.iteration == self.steps)
        state.iteration += 1
        if self._runs(state) > 1 and spent.any():
            rows = spent.nonzero().flatten()
            again = state.take(rows)
            again.restart += 1
            again.iteration.zero_()
            self._start(again)
            state.put(rows, again)

    def done(self, state: SignState) -> Tensor:
        """All steps of the last restart made, or a success that ends the search."""
        spent = (state.iteration >= self.steps) & (state.restart == self._runs(state) - 1)
        return spent | state.won | state.invalid

    def adversarial(self, network: Oracle, state: SignState) -> Tensor:
        """Return the last iterate, or the best one once the last has been looked at."""
        if state.best is None:
            return state.x
        # All rows are asked about, in the shape that the steps had; only surviving rows count.
        live = ~(state.won | state.invalid)
        if live.any():
            self._look(state, self.ask(network, state, live, gradient=False), live)
        return state.best

    def claim(self, network: Oracle, state: SignState, z: Tensor, decision: Tensor) -> Tensor:
        """Return whether an iterate was decided as wished, where iterates were looked at."""
        return super().claim(network, state, z, decision) if state.best is None else state.won

    @property
    def objective(self) -> Loss:
        """The loss to climb."""
        return self.loss

    @property
    def starts_at_image(self) -> bool:
        """Whether the first gradient is that of the clean image."""
        return not self.random_start

    @property
    def ends_early(self) -> bool:
        """Whether iterates are looked at on the way."""
        return self.keep == "best" or self.restarts > 1 or self.targets > 0

    @property
    def _kind(self) -> str:
        """How a step is made of the gradient."""
        return "l2" if self.norm == "l2" else "sign"

    def _start(self, state: SignState) -> None:
        """Put the rows at the start of their restart.

        The random start is not moved into the box: its first gradient is taken outside of it, as in
        cleverhans' MadryEtAl; the first step goes into the box.
        """
        state.x.copy_(state.x0)
        if self.random_start:
            launch_start(
                state.x, state.x0, self.norm, state.eps,
                state.seed, state.index, state.restart, None, None,
            )  # fmt: skip
        self.choose(state, state.restart)

    def _runs(self, state: SignState) -> int:
        return self.restarts * (1 if state.rivals is None else max(state.rivals.shape[1], 1))

    def _look(self, state: SignState, answer: Answer, live: Tensor) -> None:
        """Keep the iterate if it is the row's first success or its highest loss so far."""
        if state.best is None:
            return
        first = 1 if self.keep == "best" else self.steps
        counts = live & answer.valid & (state.iteration >= first)
        hit = counts & state.hit(answer.decision)
        better = hit | (counts & (answer.loss >= state.best_loss))
        torch.where(beside(better, state.x), state.x, state.best, out=state.best)
        state.best_loss = torch.where(better, answer.loss, state.best_loss)
        state.won |= hit
