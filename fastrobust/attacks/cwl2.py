"""Carlini and Wagner's L2 attack and the modified one of Saito and Roy: the least distance.

Both minimise |x' - x|^2 + c f(x') over w with x' = (tanh(w) + 1) / 2 by Adam, where f falls to 0 as
the attack succeeds, and search for the smallest weight c that does. (The papers' "|delta|_2" is
squared in what was run: cleverhans v2.1.0, attacks_tf.py, CarliniWagnerL2.) They differ in f alone.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..engine.gradients import Oracle
from ..engine.objectives import UNITS_MARGIN, Loss, largest_unit
from ..models.heads import Head
from ..ops.cw_step_op import CwRows, launch_cw_step
from .base import Attack
from .const_search import SearchRule
from .fields import Box, Count, Flag, NonNegative, Positive, Threshold
from .state import Rows, State, beside, counters


@dataclass(kw_only=True)
class CWState(State, CwRows):
    """State of a search for the least distance: that of every attack, and that of its kernel."""


class CWAttack(SearchRule[CWState], Attack[CWState]):
    """The rule of both; a subclass has the fields and says what f is."""

    climbs = False
    unbounded = True
    cost = 2
    initial_const: float
    max_steps: int
    learning_rate: float
    confidence: float
    abort_early: bool
    abort_from: float
    on_failure: str
    clip: tuple[float, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip is None:
            raise ValueError("clip must be a box, got None: tanh space is inside of one")

    def init(self, rows: Rows) -> CWState:
        """Place every row at the first iteration of its search."""
        assert rows.initial_const is not None
        begun = CwRows.fresh(rows.x0, rows.initial_const, self.abort_from)
        state = CWState(**{**vars(begun), **vars(rows), **counters(rows)})
        self._step(state, state.w, state.best_l2, state.won)  # looks at none of them
        return state

    def update(self, network: Oracle, state: CWState) -> None:
        """Judge the images, and take a step from them or move on in the search for c."""
        live = ~self.done(state)
        answer = self.ask(network, state, live)
        if self.reads_units:
            assert state.label is not None
            bonus = (self.confidence * state.sign)[:, None]
            same = largest_unit(network.head, answer.z, state.label, bonus)
            hit = same == (state.sign < 0)
        else:
            hit = state.hit(answer.decision)
            if self.confidence:
                hit &= answer.loss <= -self.confidence
        f = (answer.loss + self.confidence).to(state.x.dtype)
        self._step(state, answer.grad, f, hit & answer.valid)
        state.iteration += 1

    def done(self, state: CWState) -> Tensor:
        """All steps of the search made, or a first success where that is all that counts."""
        return self.spent(state) | state.invalid

    def adversarial(self, network: Oracle, state: CWState) -> Tensor:
        """Return the nearest success; without one the image of least loss, or the clean one."""
        if self.on_failure == "best":
            return state.best
        return torch.where(beside(state.won, state.x), state.best, state.x0)

    def claim(self, network: Oracle, state: CWState, z: Tensor, decision: Tensor) -> Tensor:
        """Return whether the search believes to have succeeded."""
        return state.won

    @property
    def stride(self) -> int:
        """A look every hundredth of a step of the search: rows end seldom."""
        return max(1, self.max_steps // 100)

    def tests_decision(self, head: Head) -> bool:
        """And with confidence a decision is not enough."""
        return super().tests_decision(head) and not self.confidence

    def cost_of_a_step(self, state: CWState) -> int:
        """All iterations: none is given up by itself that goes on."""
        return 2 * self.max_steps

    def _step(self, state: CWState, grad: Tensor, f: Tensor, hit: Tensor) -> None:
        lo, hi = self.clip
        patience = max(1, self.max_steps // 10) if self.abort_early else 0
        launch_cw_step(
            state, grad, f, hit, self.max_steps, self.binary_search_steps, patience,
            self.learning_rate, self.abort_from, lo, hi,
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class CWL2(CWAttack):
    """Carlini and Wagner's L2 attack (arXiv 1608.04644), untargeted and targeted.

    f is by how much another class leads the target, or the label all others, plus the confidence,
    and at least 0.

    Args:
        initial_const: first weight c of f; the paper's columns. It grows tenfold while nothing
            succeeds, so that `binary_search_steps` bound it.
        binary_search_steps: values of c that are tried.
        max_steps: Adam's steps for each of them.
        learning_rate: Adam's, in tanh space; pixels at 0 and 1 hardly move there.
        confidence: lead that f asks for, in units of what it compares.
        abort_early: end the steps for one c when a tenth of them gains less than 0.01%, image by
            image: no result depends on its batch mates.
        abort_from: objective that the first look compares with. cleverhans has 1e6, and gives up
            at once where c f is greater.
        view: ``"class"``: f and the test for success look at the class scores. ``"units"``: what
            the paper did, on logits (softmax, cross-entropy), probabilities (softmax, squared
            error) or tanh units beside a codeword, by the largest *unit*, which decides nothing.
        on_failure: ``"best"`` returns the image of least f (ties by distance) where nothing
            succeeded, ``"clean"`` the image itself, as cleverhans does.
        clip: box of the pixels.

    Defaults are cleverhans' v2.1.0 (arXiv 1812.00181, Table 2). A row's first weight may be given
    to :meth:`run`.

    Raises:
        ValueError, TypeError: a field out of its range or of a wrong type.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> attack = CWL2(initial_const=1.0, max_steps=50, learning_rate=0.05)
        >>> result = attack.run(net, torch.full((2, 1, 2, 2), 0.5))
        >>> result.l2.shape, attack
        (torch.Size([2]), CWL2(initial_const=1.0, max_steps=50, learning_rate=0.05))
    """

    initial_const: Positive = 1e-2
    binary_search_steps: Count = 5
    max_steps: Count = 1000
    learning_rate: Positive = 5e-3
    confidence: NonNegative = 0.0
    abort_early: Flag = True
    abort_from: Threshold = math.inf
    view: Literal["class", "units"] = "class"
    on_failure: Literal["best", "clean"] = "best"
    clip: Box = (0.0, 1.0)

    @property
    def objective(self) -> Loss:
        """The lead, before its max with 0."""
        return "margin" if self.view == "class" else UNITS_MARGIN


@dataclass(frozen=True, repr=False)
class ModifiedCWL2(CWAttack):
    """Saito and Roy's attack on codewords (arXiv 1812.00181, 3.3), and its untargeted mirror.

    f = max(D(v, Y_t) - min over i != t of D(v, Y_i) + confidence, 0), D the distance of the outputs
    v to the target vector of a class; untargeted with the two exchanged. Its test is the decision.
    v are the tanh units of a codeword head, the logits of a softmax head (the paper's "distance
    between the logits and the targets"), where Y are unit vectors.

    Args:
        metric: ``"euclidean"`` (the paper's) or ``"squared"`` distances. At a codeword the gradient
            of the first has length 1 in whatever direction rounding left; the second has none.
        probabilities: measure a softmax head at its probabilities instead of its logits.

    Other arguments are :class:`CWL2`'s.

    Example:
        >>> import fastrobust as fr
        >>> from torch import nn
        >>> book = fr.Codebook.random(3, 8)
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8))
        >>> model = fr.Classifier(net, fr.heads.Codeword(book))
        >>> attack = ModifiedCWL2(initial_const=0.1, max_steps=50)
        >>> attack(model, torch.full((2, 1, 2, 2), 0.5), target=torch.tensor([0, 1])).shape
        torch.Size([2, 1, 2, 2])
    """

    title = "modified CWL2"
    cost = 3

    initial_const: Positive = 1e-2
    binary_search_steps: Count = 5
    max_steps: Count = 1000
    learning_rate: Positive = 5e-3
    confidence: NonNegative = 0.0
    abort_early: Flag = True
    abort_from: Threshold = math.inf
    on_failure: Literal["best", "clean"] = "best"
    metric: Literal["euclidean", "squared"] = "euclidean"
    probabilities: Flag = False
    clip: Box = (0.0, 1.0)

    @property
    def objective(self) -> Loss:
        """The difference of distances, before its max with 0."""
        name = "distance" if self.metric == "euclidean" else "squared"
        return f"{name}/p" if self.probabilities else name
