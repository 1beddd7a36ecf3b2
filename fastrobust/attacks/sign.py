"""FGSM, BIM, MIM and PGD: climb the loss in steps of fixed size inside an eps-ball.

One rule with four settings. Constants are those of cleverhans v2.1.0, which the paper ran
(arXiv 1812.00181, Table 2; https://github.com/cleverhans-lab/cleverhans). Eps and step size are in
pixel units. A targeted attack climbs the negative loss of its target.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..engine.gradients import Oracle
from ..engine.objectives import TRAIN_BY_SUM, Loss
from ..ops.step_op import into_ball
from .fields import AnyLoss, Count, CountFromZero, Flag, MaybeBox, NonNegative
from .sign_rule import SignAttack, SignState


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

    eps: NonNegative
    loss: AnyLoss = "ce"
    clip: MaybeBox = (0.0, 1.0)


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

    step_size: NonNegative = 0.05
    steps: Count = 10
    keep: Literal["last", "best"] = "last"

    def cautions(self, network: Oracle, state: SignState) -> list[str]:
        """Warn where the step jumps across the whole ball."""
        wide = (state.eps > 0) & (self.step_size > 2 * state.eps)
        if not wide.any():
            return []
        return [
            f"BIM with step_size > 2 eps jumps from edge to edge of its ball, got step_size "
            f"{self.step_size} and eps {float(state.eps[wide][0]):.6g}"
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

    step_size: NonNegative = 0.06
    steps: Count = 10
    decay: NonNegative = 1.0
    label_sum_norm: Flag = False
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

    step_size: NonNegative = 0.01
    steps: Count = 40
    random_start: Flag = True
    restarts: Count = 1
    targets: CountFromZero = 0
    norm: Literal["linf", "l2"] = "linf"
    keep: Literal["last", "best"] = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts must be 1 without random_start, got {self.restarts}")

    def start_at(self, state: SignState, start: Tensor) -> None:
        """Put fresh rows at images (N, ...), moved into ball and box."""
        state.x.copy_(start)
        into_ball(state.x, state.x0, state.eps, self.norm, self.clip)

    @classmethod
    def madry(cls, eps: float) -> "PGD":
        """Return the paper's PGD: cleverhans' MadryEtAl, one start, last iterate."""
        return cls(eps=eps, keep="last")
