"""L-BFGS: the nearest image of the target class, by a quasi-Newton method inside the box.

The search over c is that of cleverhans v2.1.0 (attacks.py, LBFGS), which the paper ran; the
minimisation at each c is in ``box_lbfgs.py``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..engine.answers import Answer
from ..engine.gradients import Oracle
from ..engine.objectives import Loss, largest_unit
from ..ops.cw_step_op import NO_UPPER
from .base import Attack
from .box_lbfgs import DescentState, Rules, descend, put, restart, starts
from .const_search import SearchRule, bisect
from .fields import Count, MaybeBox, NonNegative, Positive
from .state import Rows, counters


@dataclass(kw_only=True)
class LBFGSState(DescentState):
    """State of L-BFGS: a minimisation, whose `const` is c, and the search around it.

    Attributes:
        lower: (N,) greatest c that failed.
        upper: (N,) least c that succeeded.
        search: (N,) int64 minimisations finished.
        won: (N,) bool, whether one of them has ended in a success.
        first_success: (N,) bool, True where the first success is enough.
        best: (N, ...) image to return.
        best_l2: (N,) its squared distance, inf before there is one.
        best_f: (N,) its loss, inf before there is one.
    """

    lower: Tensor
    upper: Tensor
    search: Tensor
    won: Tensor
    first_success: Tensor
    best: Tensor
    best_l2: Tensor
    best_f: Tensor


@dataclass(frozen=True, repr=False)
class LBFGS(SearchRule[LBFGSState], Attack[LBFGSState]):
    """Box-constrained L-BFGS (Szegedy et al., arXiv 1312.6199), targeted only.

    Minimises c L(y_target, F(x')) + sum (x' - x)^2 over images x' in the box, from x on, for
    several c in turn: after a success a smaller c, after a failure a larger one. The image of
    smallest distance among the ends that succeeded is returned. (arXiv 1812.00181 prints c before
    the distance; what it ran has it before the loss, as its success rates, which rise with c, say.)

    Each image has a minimisation of its own, with SciPy's stopping rules: it is as good as
    fmin_l_bfgs_b called image by image. (cleverhans hands SciPy a whole batch as one vector, so
    that images wait for each other and share their stopping rules.)

    Args:
        initial_const: first c, > 0; :meth:`run` takes one per image.
        binary_search_steps: number of c that are tried.
        max_steps: iterations of one minimisation at most.
        history: pairs that the quasi-Newton model remembers.
        ftol: stop where an iteration lowers the objective f by at most ftol max(|f|, 1).
        gtol: stop where no pixel's projected gradient exceeds it.
        loss: ``"train"`` for the model's own training loss (the paper's reading) or ``"ce"`` for
            cross-entropy of the class scores.
        view: ``"class"``: success is the decision; ``"units"``: it is that the largest output unit
            is the target vector's largest, cleverhans' test, which on codewords is not the
            decision.
        on_failure: what a row without success returns: ``"best"``, the end of lowest loss (then
            the nearest), or ``"clean"``, its image, as cleverhans does.
        clip: box of the pixels, or None for no box.

    Raises:
        ValueError, TypeError: a field out of its range or of a wrong type; an untargeted row.

    Example:
        >>> x, target = torch.tensor([[0.9, 0.3]]), torch.tensor([1])  # the scores are the pixels
        >>> LBFGS(binary_search_steps=20)(lambda x: x, x, target=target)
        tensor([[0.6000, 0.6000]])
    """

    unbounded = True
    cost = 4
    title = "L-BFGS"

    initial_const: Positive = 1e-2
    binary_search_steps: Count = 5
    max_steps: Count = 1000
    history: Count = 10
    ftol: NonNegative = 2.2e-9
    gtol: NonNegative = 1e-5
    loss: Literal["train", "ce"] = "train"
    view: Literal["class", "units"] = "class"
    on_failure: Literal["best", "clean"] = "best"
    clip: MaybeBox = (0.0, 1.0)

    def init(self, rows: Rows) -> LBFGSState:
        """Start every row at its image."""
        assert rows.initial_const is not None
        const = rows.initial_const.clone()
        no, endless = torch.zeros_like(rows.index).bool(), torch.full_like(const, torch.inf)
        return LBFGSState(
            **vars(rows),
            **counters(rows),
            **starts(rows, const, self.history),
            lower=torch.zeros_like(const),
            upper=torch.full_like(const, NO_UPPER),
            search=torch.zeros_like(rows.index),
            won=no,
            first_success=no.clone(),
            best=rows.x0.clone(),
            best_l2=endless,
            best_f=endless.clone(),
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
            reached = largest_unit(network.head, answer.z, state.label)
            answer = answer._replace(decision=torch.where(reached, state.y, -1))
        self.advance(state, answer, live)

    def advance(self, state: LBFGSState, answer: Answer, live: Tensor) -> None:
        """Go on with every row's minimisation; where it has ended, start the next one."""
        counts, hit = live & answer.valid, state.hit(answer.decision)
        state.iteration += counts
        flat = (state.trials == 0) & ~answer.grad.flatten(1).any(1) & ~hit
        state.stalled |= counts & flat
        rules = Rules(self.max_steps, self.ftol, self.gtol, self.clip)
        # A targeted row climbs minus the loss of its target.
        ended = descend(state, -answer.loss, -answer.grad, hit, counts, rules)
        self._compare(state, ended)
        following = bisect(state.found, state.const, state.lower, state.upper)
        for name, value in zip(("const", "lower", "upper"), following, strict=True):
            setattr(state, name, torch.where(ended, value, getattr(state, name)))
        state.search += ended
        restart(state, ended)

    def done(self, state: LBFGSState) -> Tensor:
        """All minimisations made, no gradient to follow, or a success where one is enough."""
        return self.spent(state) | state.stalled | state.invalid

    def adversarial(self, network: Oracle, state: LBFGSState) -> Tensor:
        """Return the nearest success, or what `on_failure` says."""
        return state.best

    def claim(self, network: Oracle, state: LBFGSState, z: Tensor, decision: Tensor) -> Tensor:
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

    def cost_of_a_step(self, state: LBFGSState) -> Tensor:
        """What those made have cost on average: where they end depends on the image."""
        return state.queries / state.search.clamp_min(1)

    @property
    def stride(self) -> int:
        """Ten: most rows are busy for hundreds of updates."""
        return 10

    def _compare(self, state: LBFGSState, ended: Tensor) -> None:
        """Keep the ends that are better than what the rows have."""
        nearer = state.l2 < state.best_l2
        better = state.found & (nearer | ~state.won)
        if self.on_failure == "best":
            lower = (state.loss < state.best_f) | ((state.loss == state.best_f) & nearer)
            better |= ~state.found & ~state.won & lower
        better &= ended
        put(state.best, state.point, better)
        state.best_l2 = torch.where(better, state.l2, state.best_l2)
        state.best_f = torch.where(better, state.loss, state.best_f)
        state.won |= ended & state.found
