"""FGSM, BIM, MIM and PGD: climb the loss in steps of fixed size inside an eps-ball.

One rule with four settings. Constants are those of cleverhans v2.1.0, which the paper ran
(arXiv 1812.00181, Table 2; https://github.com/cleverhans-lab/cleverhans). Eps and step size are in
pixel units. A targeted attack climbs the negative loss of its target.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..engine.answers import Answer
from ..engine.gradients import Oracle
from ..engine.objectives import TRAIN_BY_SUM, Loss
from ..ops.random_start_op import launch_start
from ..ops.step_op import into_ball, launch_step
from .base import Attack
from .state import Rows, State, beside, counters


@dataclass(kw_only=True)
class SignState(State):
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
        assert state.eps is not None
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
        # All rows are asked about, in the shape that the steps had, and those that stand count.
        live = ~(state.won | state.invalid)
        if live.any():
            self._look(state, self.ask(network, state, live, gradient=False), live)
        return state.best

    def claim(self, network: Oracle, state: SignState, z: Tensor) -> Tensor:
        """Return whether an iterate was decided as wished, where iterates were looked at."""
        return super().claim(network, state, z) if state.best is None else state.won

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
        assert state.eps is not None
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


@dataclass(frozen=True, repr=False)
class FGSM(SignAttack):
    """Fast gradient sign method: one step of size eps (Goodfellow et al., arXiv 1412.6572).

    Args:
        eps: radius of the linf ball.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"`` on class scores, ``"train"`` for the model's own
            training loss (the paper's reading), ``"units-ce"`` for cross-entropy of the output
            units (what the paper's published code left inside BIM), or a callable
            (scores (N, K), y (N,)) -> (N,).
        clip: box of the pixels, or None for no box (cleverhans' default).

    Raises:
        ValueError, TypeError: a field out of its range or of a wrong type.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> adv = FGSM(eps=0.1)(net, torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1]))
        >>> bool(((adv - 0.5).abs() < 0.1001).all())
        True
    """

    eps: float
    loss: Loss = "ce"
    clip: tuple[float, float] | None = (0.0, 1.0)


@dataclass(frozen=True, repr=False)
class BIM(FGSM):
    """Basic iterative method: `steps` steps of `step_size` (Kurakin et al., arXiv 1607.02533).

    Args:
        step_size: size of a step. Beyond 2 eps every step reaches the edge of the ball, so nothing
            accumulates; a direct call warns of it (the paper has it so at eps = 0.01).
        steps: number of steps.
        keep: ``"last"`` returns the last iterate; ``"best"`` the first success, else the iterate
            1..steps of highest loss.

    Other arguments are :class:`FGSM`'s.

    Example:
        >>> BIM(eps=0.1, steps=20)
        BIM(eps=0.1, steps=20)
    """

    step_size: float = 0.05
    steps: int = 10
    keep: Literal["last", "best"] = "last"

    def cautions(self, network: Oracle, rows: Rows) -> list[str]:
        """Say where the step jumps across the whole ball."""
        assert rows.eps is not None
        wide = (rows.eps > 0) & (self.step_size > 2 * rows.eps)
        if not wide.any():
            return []
        return [
            f"BIM with step_size > 2 eps jumps from edge to edge of its ball, got step_size "
            f"{self.step_size} and eps {float(rows.eps[wide][0]):.6g}"
        ]


@dataclass(frozen=True, repr=False)
class MIM(FGSM):
    """Momentum iterative method (Dong et al., arXiv 1710.06081).

    The momentum is decay times itself plus the gradient over its mean absolute value.

    Args:
        step_size: size of a step.
        steps: number of steps.
        decay: factor of the momentum.
        label_sum_norm: divide the label vector by its sum, as cleverhans does: harmless to one-hot
            labels and so to every loss but ``"train"`` on codewords, which it sends elsewhere.
        keep: as in :class:`BIM`.

    Other arguments are :class:`FGSM`'s.

    Example:
        >>> MIM(eps=0.1).decay
        1.0
    """

    step_size: float = 0.06
    steps: int = 10
    decay: float = 1.0
    label_sum_norm: bool = False
    keep: Literal["last", "best"] = "last"

    @property
    def objective(self) -> Loss:
        """The loss to climb."""
        return TRAIN_BY_SUM if self.label_sum_norm and self.loss == "train" else self.loss

    @property
    def _kind(self) -> str:
        return "momentum"


@dataclass(frozen=True, repr=False)
class PGD(FGSM):
    """Projected gradient descent from a random start (Madry et al., arXiv 1706.06083).

    Args:
        eps: radius of the ball, in the units of `norm`.
        step_size: size of a step, in the units of `norm`.
        steps: number of steps.
        random_start: start at random inside the ball, else at the image.
        restarts: number of starts; a later one is for rows that no earlier one broke. With
            `targets`, for each of them.
        targets: number of rival classes to go for, each in a run of its own, highest score at the
            image first; 0 for none. With the loss ``"margin"`` this is the multi-targeted attack of
            Gowal et al. (arXiv 1910.09338).
        norm: ``"linf"`` (steps by the sign) or ``"l2"`` (steps along the gradient).
        keep: as in :class:`BIM`; over restarts the first success, else the highest loss, is kept.

    Other arguments are :class:`FGSM`'s.

    Raises:
        ValueError, TypeError: as in :class:`FGSM`; several restarts without a random start.

    Example:
        >>> PGD.madry(0.1)
        PGD(eps=0.1, keep='last')
    """

    step_size: float = 0.01
    steps: int = 40
    random_start: bool = True
    restarts: int = 1
    targets: int = 0
    norm: Literal["linf", "l2"] = "linf"
    keep: Literal["last", "best"] = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts must be 1 without random_start, got {self.restarts}")

    def start_at(self, state: SignState, start: Tensor) -> None:
        """Put fresh rows at images (N, ...), moved into ball and box."""
        assert state.eps is not None
        state.x.copy_(start)
        into_ball(state.x, state.x0, state.eps, self.norm, self.clip)

    @classmethod
    def madry(cls, eps: float) -> "PGD":
        """Return the paper's PGD: cleverhans' MadryEtAl, one start, last iterate."""
        return cls(eps=eps, keep="last")
