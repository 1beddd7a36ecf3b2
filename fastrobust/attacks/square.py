"""Square: a random search with squares of pixels, which asks for scores and for no gradient.

Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial
attack via random search", ECCV 2020, arXiv 1912.00049: algorithm 1, with the proposals of algorithm
2 in linf and of algorithm 3 in L2. Constants are the authors'.
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
from ..ops.square_op import launch_square
from ..ops.step_op import launch_step
from .base import Attack
from .fields import AnyLoss, Count, MaybeBox, NonNegative, Share
from .square_windows import planes, sides, tiled_bumps, tiles, windows, with_bumps
from .state import BallState, Rows, beside, counters

# Of 10000 queries those after which a square covers half as many pixels, as the authors' code has
# them (https://github.com/max-andr/square-attack; the paper leaves out the one at 500).
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(kw_only=True)
class SquareState(BallState):
    """State of Square; ``iteration`` counts the images of this run that were asked about.

    Attributes:
        run: (N,) int64 runs before this one.
        held: (N, ...) the image of highest loss of this run, from which the next one is made.
        held_loss: (N,) its loss.
        best, best_loss: (N, ...), (N,) the same of the runs before.
        won: (N,) bool, whether `held` is a success.
    """

    run: Tensor
    held: Tensor
    held_loss: Tensor
    best: Tensor
    best_loss: Tensor
    won: Tensor


@dataclass(frozen=True, repr=False)
class Square(Attack[SquareState]):
    """Square attack (Andriushchenko et al. 2020): a black box's scores are all that it needs.

    It changes the pixels of one square at a time, and keeps what makes the loss rise. In linf a
    square gets a new colour at the corners of the ball (a square that would change nothing has the
    opposite one), from a start of vertical stripes. In L2 a square's change gives way to two bumps,
    and gets the budget that another square leaves, from a start of tiles of bumps. Squares shrink
    as queries are spent. The first success ends the row; without one the image of the highest loss
    comes back.

    Images are (N, C, H, W). (N, H, W) have one channel; vectors (N, d) are lines of pixels, and the
    squares on them are segments, which suits series better than features in no order.

    Args:
        eps: radius of the ball, in pixel units and the units of `norm`.
        norm: ``"linf"`` or ``"l2"``.
        loss: as in :class:`~fastrobust.attacks.FGSM`.
        queries: images to ask about in a run, its start included; a forward each.
        p_init: share of the pixels in the first squares; it is halved nine times, after 0.1% to 80%
            of the queries. This one is AutoAttack's (arXiv 2003.01690); the paper has 0.05 in linf
            and 0.1 in L2 for networks without a defence.
        restarts: runs from different starts, for rows that no earlier one broke.
        clip: box of the pixels, or None for no box.

    Raises:
        ValueError, TypeError: a field out of its range or of a wrong type.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> x = torch.full((2, 1, 4, 4), 0.5)
        >>> result = Square(eps=0.1, queries=50).run(net, x, torch.tensor([0, 1]))
        >>> bool((result.linf <= 0.1 + 1e-6).all())
        True
    """

    per_row = "eps"

    eps: NonNegative
    norm: Literal["linf", "l2"] = "linf"
    loss: AnyLoss = "margin"
    queries: Count = 5000
    p_init: Share = 0.8
    restarts: Count = 1
    clip: MaybeBox = (0.0, 1.0)

    def init(self, rows: Rows) -> SquareState:
        """Start every row with stripes or tiles."""
        low = torch.full_like(rows.sign, -torch.inf, dtype=torch.float64)
        state = SquareState(
            **vars(rows),
            **counters(rows),
            x=rows.x0.clone(),
            run=torch.zeros_like(rows.index),
            held=rows.x0.clone(),
            held_loss=low,
            best=rows.x0.clone(),
            best_loss=low.clone(),
            won=torch.zeros_like(rows.index, dtype=torch.bool),
        )
        self._start(state)
        return state

    def update(self, network: Oracle, state: SquareState) -> None:
        """Ask for the scores at every row's x, and move it."""
        live = ~self.done(state)
        self.advance(state, self.ask(network, state, live, gradient=False), live)

    def advance(self, state: SquareState, answer: Answer, live: Tensor) -> None:
        """Keep x if it is better than what is held, and change a square of what is."""
        loss, hit = answer.loss.double(), state.hit(answer.decision)
        if self.norm == "linf":
            lo, hi = self.clip or (None, None)
            launch_square(state, loss, hit, answer.valid, live, self._sides(state), lo, hi)
        else:
            counts = live & answer.valid
            self._hold(state, loss, hit & counts, counts)
            state.iteration += live
            self._propose(state)
        if self.restarts > 1:
            spent = live & ~state.won & (state.iteration >= self.queries)
            again = (spent & (state.run + 1 < self.restarts)).nonzero().flatten()
            if len(again):
                fresh = state.take(again)
                self._restart(fresh)
                state.put(again, fresh)

    def done(self, state: SquareState) -> Tensor:
        """All queries of the last run spent, or a success."""
        # A row with another run left begins it at once, so a spent row is in its last run.
        return (state.iteration >= self.queries) | state.won | state.invalid

    def adversarial(self, network: Oracle, state: SquareState) -> Tensor:
        """Return the success, else the image of the highest loss."""
        last = state.won | (state.held_loss > state.best_loss)
        return torch.where(beside(last, state.x), state.held, state.best)

    def claim(self, network: Oracle, state: SquareState, z: Tensor, decision: Tensor) -> Tensor:
        """Return whether an image was decided as wished."""
        return state.won

    @property
    def objective(self) -> Loss:
        """The loss to climb."""
        return self.loss

    @property
    def uneven(self) -> bool:
        """Most images take a few queries, some all of them."""
        return True

    @property
    def stride(self) -> int:
        """Ten: a forward is cheap, and a look waits for the device."""
        return 10

    def _restart(self, state: SquareState) -> None:
        """Begin the next run, and keep the better one of this and those before."""
        better = state.held_loss > state.best_loss
        torch.where(beside(better, state.x), state.held, state.best, out=state.best)
        state.best_loss = torch.where(better, state.held_loss, state.best_loss)
        state.held.copy_(state.x0)
        state.held_loss.fill_(-torch.inf)
        state.iteration.zero_()
        state.run += 1
        self._start(state)

    def _start(self, state: SquareState) -> None:
        """Put x to the start of the run: stripes of +-eps, or tiles of bumps."""
        count, channels, height, width = planes(state.x0).shape
        if self.norm == "linf":
            colours = _signs(self._draw(state, channels * width))
            change = colours.view(count, channels, 1, width).expand(-1, -1, height, -1)
        else:
            _, down, across = tiles(height, width)
            draw = self._draw(state, down * across * (1 + channels)).view(count, down * across, -1)
            change = tiled_bumps(draw[..., 0] < 0, _signs(draw[..., 1:]), height, width)
        self._move(state, state.x0, change, state.eps)

    def _sides(self, state: SquareState) -> Tensor:
        """Height and width (queries, 2) int64 of the windows of a run."""
        _, _, height, width = planes(state.x0).shape
        bumpy = self.norm == "l2"
        return _sizes(self.queries, self.p_init, height, width, bumpy, state.x.device)

    def _hold(self, state: SquareState, loss: Tensor, hit: Tensor, counts: Tensor) -> None:
        """Hold x where it is a hit or its loss is higher; only rows that count (N,) may change."""
        better = hit | (counts & (loss > state.held_loss))
        torch.where(beside(better, state.x), state.x, state.held, out=state.held)
        state.held_loss = torch.where(better, loss, state.held_loss)
        state.won |= hit

    def _propose(self, state: SquareState) -> None:
        """Put x to what is held, but for the bumps of two windows: algorithm 3."""
        _, channels, height, width = planes(state.x0).shape
        tall, wide = self._sides(state)[state.iteration - 1].unbind(1)
        draw = self._draw(state, 5 + channels)
        corner = (draw[:, :4] + 1) / 2
        first = windows(tall, wide, corner[:, :2], height, width)
        second = windows(tall, wide, corner[:, 2:], height, width)
        signs = _signs(draw[:, 5:])[:, :, None, None]
        change = planes(state.held - state.x0)
        change = with_bumps(change, first, second, draw[:, 4] < 0, signs, state.eps)
        self._move(state, state.x0, change, state.eps)

    def _move(self, state: SquareState, start: Tensor, change: Tensor, size: Tensor) -> None:
        """Put x to `start` moved by the change, (N, C, H, W), and back into ball and box.

        It is a step of that size (N,) along the change's sign in linf, along itself in L2.
        """
        lo, hi = self.clip or (None, None)
        kind = "l2" if self.norm == "l2" else "sign"
        change = change.reshape(start.shape).contiguous()
        state.x.copy_(start)
        launch_step(state.x, state.x0, change, None, kind, state.eps, size, 0.0, lo, hi)

    def _draw(self, state: SquareState, count: int) -> Tensor:
        """Random numbers (N, count) of [-1, 1), keyed by seed, image, run and query."""
        query = state.run * self.queries + state.iteration
        centre = state.x0.new_zeros(len(state), count)
        draw = torch.empty_like(centre)
        return launch_start(draw, centre, "linf", 1.0, state.seed, state.index, query)


def _signs(draw: Tensor) -> Tensor:
    return torch.where(draw < 0, -1.0, 1.0).to(draw.dtype)


@cache
def _sizes(
    queries: int, first: float, height: int, width: int, bumpy: bool, device: torch.device
) -> Tensor:
    """Height and width (queries, 2) int64 of the window of each proposal, from 0 on."""
    number = torch.arange(queries)
    halved = torch.bucketize(number * 10000 // queries, torch.tensor(_HALVED_AFTER))
    area = first * 0.5 ** halved.double() * height * width
    return torch.stack(sides(area, height, width, bumpy), 1).to(device)
