"""FAB: back and forth across the linearised boundary, ever nearer to the image.

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack",
ICML 2020, arXiv 1907.02044, algorithm 1, in the targeted form of arXiv 2003.01690. Constants are
the paper's.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..engine.gradients import Oracle
from ..engine.objectives import Loss
from ..ops.random_start_op import launch_start
from .base import Attack
from .fields import Count, CountFromZero, MaybeBox, NonNegative, Positive, Share
from .projections import length, to_hyperplane
from .state import Rows, State, beside, counters

_FINAL_SEARCH = 3  # steps between the image and the nearest success
# Least share of the way to the success that such a step goes. Where a network is linear the paper's
# first step ends on the boundary, on the side that rounding likes, and its others would stay there.
_LEAST_SHARE = 0.05


@dataclass(kw_only=True)
class FABState(State):
    """State of FAB; ``iteration`` counts the steps of this run.

    Attributes:
        run: (N,) int64 runs before this one: restarts, times rivals.
        nearest: (N, ...) the success nearest to the image so far, else the image.
        distance: (N,) how far it is, inf without one.
    """

    run: Tensor
    nearest: Tensor
    distance: Tensor


@dataclass(frozen=True, repr=False)
class FAB(Attack[FABState]):
    """Smallest change that turns the decision (Croce and Hein 2020), in linf or L2: FAB-T.

    There is no ball. For each of the classes of highest score at the image a run goes for the
    boundary between the label and that class. A step takes that boundary for a hyperplane and
    projects the iterate and the image onto it, inside the box; it goes to a mean of both points, in
    which the image's counts the more the farther the iterate's is, and a little beyond them. From a
    success it turns back towards the image. At the end three steps of linear interpolation between
    the image and the nearest success go for the boundary itself.

    Untargeted: it chooses its rivals itself. An image that is not decided as its label comes back
    as it is, and so does one without a success. A run ends where its gradient is zero; where all
    did and found nothing, the result's `stalled` is set.

    Args:
        norm: ``"linf"`` or ``"l2"``, the norm to be small.
        steps: steps of a run; each costs two forwards and a backward.
        restarts: runs of each rival. The first starts at the image, others at random around it, at
            half the distance of the nearest success, but no further than half of `eps`.
        targets: number of rival classes. All are if there are fewer.
        eps: diameter of the random starts, in pixel units and the units of `norm`.
        alpha_max: most that the image's projection counts.
        eta: how far a step goes, as a share of the way to the hyperplane.
        beta: share of the way from the image that is kept after a success.
        clip: box of the pixels, or None for no box.

    Raises:
        ValueError, TypeError: a field out of its range or of a wrong type; from a run, a target.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
        >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
        >>> result = FAB(norm="l2", steps=10, clip=None).run(net, x, y)
        >>> bool(result.success.all())
        True
    """

    unbounded = True

    norm: Literal["linf", "l2"] = "linf"
    steps: Count = 100
    restarts: Count = 1
    targets: CountFromZero = 9
    eps: NonNegative = 0.3
    alpha_max: Share = 0.1
    eta: Positive = 1.05
    beta: Share = 0.9
    clip: MaybeBox = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets:
            raise ValueError("targets must be >= 1: FAB goes for one rival after another, got 0")

    def init(self, rows: Rows) -> FABState:
        """Start every row at its image."""
        state = FABState(
            **vars(rows),
            **counters(rows),
            rival=rows.y.clone(),
            x=rows.x0.clone(),
            run=torch.zeros_like(rows.index),
            nearest=rows.x0.clone(),
            distance=torch.full_like(rows.sign, torch.inf),
        )
        self.choose(state, state.run)
        return state

    def update(self, network: Oracle, state: FABState) -> None:
        """Take a step from x, test where it leads, and turn back from a success."""
        live = ~self.done(state)
        answer = self.ask(network, state, live)
        live &= answer.valid
        self._note(state, live & state.hit(answer.decision))
        live &= state.distance > 0
        flat = live & ~answer.grad.flatten(1).any(1)
        moved = live & ~flat
        self._step(state, answer.grad, -answer.loss)
        tested = network.score(state.x, state.y, self.objective, state.sign)
        self.book(state, tested, moved, 1)
        hit = moved & tested.valid & state.hit(tested.decision)
        self._note(state, hit)
        back = torch.ones_like(state.distance).masked_fill(hit, self.beta)
        state.x.copy_(self._boxed(state.x0.lerp(state.x, beside(back, state.x))))
        state.iteration += live
        self._next_run(state, live, flat)

    def done(self, state: FABState) -> Tensor:
        """All runs made, or nothing left to shorten."""
        return (state.run >= self._runs(state)) | (state.distance == 0) | state.invalid

    def adversarial(self, network: Oracle, state: FABState) -> Tensor:
        """Return the nearest success after the final search between it and the image."""
        live = (state.distance > 0) & state.distance.isfinite() & ~state.invalid
        near, far = state.nearest, state.x0
        if not live.any():
            return near
        there, rival = self._look(network, state, near, live)
        here, _ = self._look(network, state, far, live)
        for _ in range(_FINAL_SEARCH):
            inside, outside = (_lead(scores, rival, state.y) for scores in (there, here))
            share = -outside / (inside - outside)
            share = torch.where((share >= 0) & (share <= 1), share, 1.0).clamp_min(_LEAST_SHARE)
            share = share.to(near.dtype)
            middle = self._boxed(far.lerp(near, beside(share, near)))
            scores, decision = self._look(network, state, middle, live)
            hit = live & state.hit(decision)
            near = torch.where(beside(hit, near), middle, near)
            far = torch.where(beside(hit, far), far, middle)
            there = torch.where(hit[:, None], scores, there)
            here = torch.where(hit[:, None], here, scores)
            rival = torch.where(hit, decision, rival)
        return near

    def claim(self, network: Oracle, state: FABState, z: Tensor, decision: Tensor) -> Tensor:
        """Return whether there was a success."""
        return state.distance.isfinite()

    @property
    def objective(self) -> Loss:
        """How far the rival is above the label."""
        return "margin"

    def _step(self, state: FABState, grad: Tensor, gap: Tensor) -> None:
        """Go beyond the projections of x and of the image onto the hyperplane, biased to these."""
        x, x0, w = (images.flatten(1) for images in (state.x, state.x0, grad))
        gap = gap.to(x.dtype)
        gaps = torch.cat([gap, gap + (w * (x - x0)).sum(1)])
        ways = to_hyperplane(torch.cat([x, x0]), torch.cat([w, w]), gaps, self.norm, self.clip)
        way, from_image = ways.chunk(2)
        far, far_from_image = length(way, self.norm), length(from_image, self.norm)
        both = (far + far_from_image).clamp_min(torch.finfo(x.dtype).tiny)
        alpha = (far / both).clamp(max=self.alpha_max)[:, None]
        there = (x + self.eta * way).lerp(x0 + self.eta * from_image, alpha)
        state.x.copy_(self._boxed(there).view_as(state.x))

    def _note(self, state: FABState, hit: Tensor) -> None:
        """Keep x where it is a success nearer than all before."""
        distance = length(state.x - state.x0, self.norm)
        nearer = hit & (distance < state.distance)
        torch.where(beside(nearer, state.x), state.x, state.nearest, out=state.nearest)
        state.distance = torch.where(nearer, distance, state.distance)

    def _next_run(self, state: FABState, live: Tensor, flat: Tensor) -> None:
        """Put rows whose run is over at the start of their next one."""
        over = live & (flat | (state.iteration >= self.steps))
        if not state.x.is_cuda and not over.any():
            return
        stalled = flat & (state.stalled | (state.run == 0)) & state.distance.isinf()
        state.stalled = torch.where(over, stalled, state.stalled)
        state.run += over
        state.iteration.masked_fill_(over, 0)
        self.choose(state, state.run)
        torch.where(beside(over, state.x), self._starts(state), state.x, out=state.x)

    def _starts(self, state: FABState) -> Tensor:
        """Where the runs that rows are in begin."""
        if self.restarts == 1:
            return state.x0
        assert state.rivals is not None
        centre = torch.zeros_like(state.x0)
        away = launch_start(
            torch.empty_like(centre), centre, self.norm, 1.0, state.seed, state.index, state.run
        )
        radius = state.distance.clamp(max=self.eps) / 2
        radius = radius.masked_fill(state.run < state.rivals.shape[1], 0.0)
        return self._boxed(state.x0 + beside(radius / length(away, self.norm), away) * away)

    def _look(
        self, network: Oracle, state: FABState, x: Tensor, live: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class scores (N, K) and decision (N,) at x, by a forward of the `live` rows."""
        z, decision, _ = network.decide(x)
        state.queries += live
        return network.head.scores(z), decision

    def _boxed(self, x: Tensor) -> Tensor:
        return x if self.clip is None else x.clamp(*self.clip)

    def _runs(self, state: FABState) -> int:
        return 0 if state.rivals is None else self.restarts * state.rivals.shape[1]


def _lead(scores: Tensor, rival: Tensor, y: Tensor) -> Tensor:
    """By how much (N,) the rival's score is above the label's."""
    ahead = scores.gather(1, rival[:, None]) - scores.gather(1, y[:, None])
    return ahead[:, 0]
