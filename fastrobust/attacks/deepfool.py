"""DeepFool: step by step to the nearest of the linearised decision boundaries.

Constants and order of operations are those of cleverhans v2.1.0, which the paper ran
(arXiv 1812.00181, Table 2; https://github.com/cleverhans-lab/cleverhans, attacks_tf.py,
deepfool_attack).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..engine.gradients import Oracle
from ..engine.objectives import UNITS_MARGIN, Loss, resembles
from ..ops.deepfool_op import launch_deepfool
from .base import Attack
from .fields import Count, CountFromTwo, MaybeBox, NonNegative
from .state import Rows, State, counters


@dataclass(kw_only=True)
class DeepFoolState(State):
    """State of DeepFool; ``iteration`` counts steps made, and x is x0 + r in the box.

    Attributes:
        r: (N, ...) sum of the steps.
        left: (N,) bool, whether the highest output is another than at the start.
    """

    r: Tensor
    left: Tensor


@dataclass(frozen=True, repr=False)
class DeepFool(Attack[DeepFoolState]):
    """Smallest L2 change that turns the decision (Moosavi-Dezfooli et al., arXiv 1511.04599).

    Every step takes the outputs for linear and goes to the nearest boundary between the highest one
    and a rival, until another one is the highest. What is returned goes `overshoot` further than
    the sum of the steps, and is not tested again. Untargeted only, and without a budget.

    An image whose highest output is not its label's to begin with comes back as it is. One whose
    slopes are all zero stops where it is, unclaimed, and is flagged in the result's `stalled`; it
    would become NaN in cleverhans.

    Args:
        max_steps: most steps of an image. The result of a smaller number is what a run with a
            larger one holds after as many steps.
        candidates: how many of the highest outputs are looked at, sorted anew at every step; a step
            costs two forwards and a backward for each but the highest. All are if there are fewer,
            of which a direct call warns.
        overshoot: share by which the returned change is longer than the one that was found.
        view: ``"class"``: the outputs are the class scores, the highest of which decides.
            ``"units"``: they are the output units, as in the paper, softmax(z) or tanh(z) where the
            squared error was trained on them, else z. The highest of 128 units of a codeword says
            little about the nearest codeword, so `claimed` and `success` differ there.
        clip: box of the pixels, or None for no box.

    Raises:
        ValueError, TypeError: a field out of its range or of a wrong type; from a run, targets.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> x = torch.full((2, 1, 2, 2), 0.5)
        >>> result = DeepFool(candidates=3, clip=None).run(net, x)
        >>> bool(result.success.all())
        True
    """

    prefix = "max_steps"
    unbounded = True
    cost = 1
    letters = {"max_steps": "m"}

    max_steps: Count = 50
    candidates: CountFromTwo = 10
    overshoot: NonNegative = 0.02
    view: Literal["class", "units"] = "class"
    clip: MaybeBox = (0.0, 1.0)

    def init(self, rows: Rows) -> DeepFoolState:
        """Start every row at its image."""
        return DeepFoolState(
            **vars(rows),
            **counters(rows),
            x=rows.x0.clone(),
            r=torch.zeros_like(rows.x0),
            left=torch.zeros_like(rows.index, dtype=torch.bool),
        )

    def update(self, network: Oracle, state: DeepFoolState) -> None:
        """Take a step from x where the highest output is still the one at the start, and test it.

        The test has a forward of its own, so that a row that is done costs no further slopes.
        """
        live = ~self.done(state)
        answer = network.leaders(state.x, self.candidates, self.view)
        state.queries += live * (1 + answer.gaps.shape[1])
        state.invalid |= live & ~answer.valid
        live &= answer.valid
        state.left |= live & ~self._stays(network, state, answer.z)
        live &= ~state.left
        lo, hi = self.clip or (None, None)
        gaps = answer.gaps.to(state.x.dtype)
        moved = launch_deepfool(state.x, state.r, state.x0, answer.slopes, gaps, live, lo, hi)
        state.stalled |= live & ~moved
        state.iteration += moved
        tested = self.ask(network, state, moved, gradient=False)
        state.left |= moved & tested.valid & ~self._stays(network, state, tested.z)

    def done(self, state: DeepFoolState) -> Tensor:
        """Return whether the highest output has changed, or there is no step left or possible."""
        spent = state.iteration >= self.max_steps
        return spent | state.left | state.stalled | state.invalid

    def adversarial(self, network: Oracle, state: DeepFoolState) -> Tensor:
        """Return the images moved by the steps and the overshoot, in the box."""
        adv = state.x0 + (1 + self.overshoot) * state.r
        return adv if self.clip is None else adv.clamp(*self.clip)

    def claim(self, network: Oracle, state: DeepFoolState, z: Tensor, decision: Tensor) -> Tensor:
        """Return whether the highest output has changed, without the overshoot."""
        return state.left

    @property
    def objective(self) -> Loss:
        """The hinge that the test of a step is the sign of."""
        return UNITS_MARGIN if self.view == "units" else "margin"

    @property
    def uneven(self) -> bool:
        """Most images take a few steps, some all of them."""
        return True

    def cautions(self, network: Oracle, state: DeepFoolState) -> list[str]:
        """Warn where there are fewer outputs than candidates."""
        outputs = network.num_classes(state.x0) if state.label is None else state.label.shape[1]
        if self.candidates <= outputs:
            return []
        return [
            f"DeepFool must have at most as many candidates as there are outputs, of which it "
            f"takes {outputs}, got {self.candidates}"
        ]

    def require(self, sign: Tensor) -> None:
        """Raise ValueError where a row has a target."""
        if (sign < 0).any():
            raise ValueError(
                f"DeepFool must be untargeted, got a target in {int((sign < 0).sum())} of "
                f"{len(sign)} rows"
            )

    def _stays(self, network: Oracle, state: DeepFoolState, z: Tensor) -> Tensor:
        """Whether the highest output (N,) at pre-activations z (N, d) is the one at the start."""
        return resembles(network.head, z, state.y, self.objective, state.label)
