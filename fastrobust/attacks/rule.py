"""What an attack implements: a rule on the state of rows.

A rule has four hooks. :meth:`AttackRule.init` makes the state of new rows,
:meth:`AttackRule.advance` moves every row by what the network answered at it,
:meth:`AttackRule.done` says which rows have ended, and :meth:`AttackRule.adversarial` returns their
images. No hook looks at another row, so whoever runs the rule may take out a row that is done and
put another one in its place: ``attack(model, x, y)`` runs it on one batch, a sweep by continuous
batching (``engine/scheduler.py``).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ..engine.answers import Answer
from ..engine.gradients import Oracle
from ..engine.objectives import Loss, reads_units, resembles
from ..models.heads import Head
from .state import Rows, State

S = TypeVar("S", bound=State)


class AttackRule(Generic[S]):
    """The hooks of an attack, and what is known about it as a kind."""

    per_row: ClassVar[str | None] = None  # the field that `run` takes per row
    prefix: ClassVar[str | None] = None  # the field by which a shorter run begins a longer one
    climbs: ClassVar[bool] = True  # the loss goes up; a search for the least one goes down
    unbounded: ClassVar[bool] = False  # an image may move as far as the attack likes
    cost: ClassVar[int] = 0  # order in which a sweep runs them: the cheap ones first
    title: ClassVar[str] = ""  # name in tables; by default the name of the class
    # Letters of parameters in tables, as in the paper's Table 1.
    letters: ClassVar[Mapping[str, str]] = MappingProxyType({})
    clip: tuple[float, float] | None
    targets: int = 0  # rival classes to go for one after another

    def init(self, rows: Rows) -> S:
        """Return the state of rows that have not been asked about; no two tensors share memory."""
        raise NotImplementedError

    def update(self, network: Oracle, state: S) -> None:
        """Ask the network about every row and move it, in place."""
        live = ~self.done(state)
        self.advance(state, self.ask(network, state, live), live)

    def advance(self, state: S, answer: Answer, live: Tensor) -> None:
        """Move the rows by the answer at ``state.x``, in place; only `live` ones (N,) count."""
        raise NotImplementedError

    def done(self, state: S) -> Tensor:
        """Return which rows (N,) have ended; further updates of theirs change nothing."""
        raise NotImplementedError

    def adversarial(self, network: Oracle, state: S) -> Tensor:
        """Return the images (N, ...) of rows that are done."""
        raise NotImplementedError

    def claim(self, network: Oracle, state: S, z: Tensor, decision: Tensor) -> Tensor:
        """Return whether the attack believes that each row (N,) succeeded.

        z (N, d) and decision (N,) are the network's answers about the images of `adversarial`.

        By default by the argmax of what its loss compares: the class scores, which is the decision,
        or under the training loss the units with the label's target vector. On codewords that is
        something else, and where the paper's tables went wrong.
        """
        same = resembles(network.head, z, state.y, self.objective, state.label, decision)
        return same == (state.sign < 0)

    @property
    def objective(self) -> Loss:
        """The loss to climb, as the network is asked for it."""
        raise NotImplementedError

    @property
    def reads_units(self) -> bool:
        """Whether rows need a label vector beside the output units."""
        return reads_units(self.objective)

    @property
    def starts_at_image(self) -> bool:
        """Whether the first question is about the clean image, whatever eps is."""
        return False

    def tests_decision(self, head: Head) -> bool:
        """Whether the attack's own test for success is the decision of a model with this head."""
        return True

    @property
    def ends_early(self) -> bool:
        """Whether a decision on the way ends a row or chooses what it returns."""
        return True

    @property
    def stride(self) -> int:
        """Updates between two looks at which rows are done; a look waits for the device."""
        return 1

    @property
    def uneven(self) -> bool:
        """Whether some rows take many times as long as others."""
        return False

    def stopped_early(self, state: S) -> Tensor:
        """Return which rows (N,) ended by a first success that cut their search short."""
        return torch.zeros_like(state.invalid)

    def saved_queries(self, state: S) -> Tensor:
        """Return the evaluations (N,) that the steps of a search cut short would have cost."""
        return torch.zeros_like(state.queries)

    def cautions(self, network: Oracle, state: S) -> list[str]:
        """Return what a direct caller should be warned of."""
        return []

    def check_box(self, x: Tensor) -> None:
        """Raise ValueError where images (N, ...) lie outside the box."""
        box = self.clip
        if box is not None and len(x) and (float(x.min()) < box[0] or float(x.max()) > box[1]):
            raise ValueError(
                f"x must lie in the box {box}, got {float(x.min()):.6g} to {float(x.max()):.6g}; "
                "normalisation belongs inside the model, clip=None is for no box at all"
            )

    def require(self, sign: Tensor) -> None:
        """Raise ValueError where the rows' directions (N,), 1 away and -1 towards, do not suit."""
        if self.targets and (sign < 0).any():
            raise ValueError(
                f"{self!r} chooses its targets itself, got a target in {int((sign < 0).sum())} of "
                f"{len(sign)} rows"
            )

    def choose(self, state: S, run: Tensor) -> None:
        """Let rows go for the rival of their run, (N,) int64: for each in turn."""
        if state.rivals is None or state.rival is None:
            return
        if state.rivals.shape[1]:  # a lone class has none
            turn = run % state.rivals.shape[1]
            state.rival.copy_(state.rivals.gather(1, turn[:, None])[:, 0])

    def start_at(self, state: S, start: Tensor) -> None:
        """Put fresh rows at images (N, ...) like x0, moved into ball and box."""
        raise TypeError(f"start must be for PGD or APGD, got one for {self!r}")

    def ask(self, network: Oracle, state: S, live: Tensor, gradient: bool = True) -> Answer:
        """Ask about every row at ``state.x``; book it on the rows that are `live`, (N,) bool."""
        sign = state.sign if self.climbs else -state.sign
        asked = state.x, state.y, self.objective, sign, state.label, state.rival
        if gradient:
            answer = network.gradient(*asked, confirm=self.ends_early)
        else:
            answer = network.score(*asked)
        self.book(state, answer, live, 2 if gradient else 1)
        return answer

    def book(self, state: S, answer: Answer, live: Tensor, evaluations: int) -> None:
        """Note on `live` rows what an answer cost, and whether it was one."""
        state.queries.add_(live, alpha=evaluations)
        state.invalid |= live & ~answer.valid
