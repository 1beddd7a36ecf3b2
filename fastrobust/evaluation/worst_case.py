"""The worst that attacks do to each image of a set, one attack after another."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..attacks.state import beside
from ..attacks.targets import highest_rivals
from ..engine.gradients import Oracle
from ..engine.prepared import Prepared
from ..engine.score_losses import on_scores
from ..ops.step_op import into_ball
from ..utils.progress import Tracker
from .cache import Journal
from .suite import Stage

Run = Callable[[Tensor], dict[str, Tensor]]

BLOCK = 512  # images that one piece of work holds: the most that a killed evaluation loses


@dataclass(frozen=True)
class Contribution:
    """What one attack of an evaluation did.

    Attributes:
        name: The attack in a few words.
        attack: Its repr, "" for the images of other models.
        tried: Images that stood before it.
        broke: Those that it broke.
        evaluations: Forwards and backwards of one image that it cost.
        seconds: Its time.
    """

    name: str
    attack: str
    tried: int
    broke: int
    evaluations: int
    seconds: float


class WorstCase:
    """Drives attacks over the images that still stand, and keeps what came of it.

    Args:
        model: Who is attacked.
        network: The same, opened: what decides.
        x: (N, ...) images.
        y: (N,) int64 labels.
        eps: Radius of the ball around each.
        norm: ``"linf"`` or ``"l2"``.
        clip: Box of the pixels, or None.
        seed: Of random starts; each attack gets one of its own.
        journal: Keeps finished pieces.
        tracker: Is told of each image and attack.

    Attributes:
        adv: (N, ...) the image that broke each, else the one that came closest.
        decision: (N,) int64 what is decided there.
        margin: (N,) how far the best wrong class is above the label there.
        correct: (N,) bool, whether the clean image is decided as its label.
        broken_by: (N,) int64 which of the attacks so far did, -1 for none.
        queries: (N,) int64 forwards and backwards.
    """

    def __init__(
        self, model: Prepared, network: Oracle, x: Tensor, y: Tensor, eps: float, norm: str,
        clip: tuple[float, float] | None, seed: int, journal: Journal, tracker: Tracker,
    ) -> None:  # fmt: skip
        self.model, self.network, self.x, self.y = model, network, x, y
        self.eps, self.norm, self.clip, self.seed = eps, norm, clip, seed
        self.journal, self.tracker = journal, tracker
        self.attacks = 0
        self.adv = x.clone()
        self.decision = torch.full_like(y, -1)
        self.margin = torch.full_like(y, -torch.inf, dtype=torch.float64)
        self.correct = torch.zeros_like(y, dtype=torch.bool)
        self.broken_by = torch.full_like(y, -1)
        self.queries = torch.zeros_like(y)
        for rows in self._blocks(torch.arange(len(x), device=x.device)):
            found = self._once("clean", rows, lambda rows: self._judged(x[rows], rows))
            self.margin[rows], self.decision[rows] = found["margin"], found["decision"]
            self.correct[rows] = found["valid"] & ~found["broken"]
            self.queries[rows] += found["queries"]
            tracker.advance(len(rows))

    @property
    def broken(self) -> Tensor:
        """(N,) bool, whether the label is not decided, on the clean image or on another one."""
        return ~self.correct | (self.broken_by >= 0)

    def attack(self, stage: Stage) -> Contribution:
        """Run one attack on every image that stands."""
        model = self.model if stage.head is None else self.model.under(stage.head)

        def run(rows: Tensor) -> dict[str, Tensor]:
            found = stage.attack.run(
                model, self.x[rows], self.y[rows], seed=self.seed + self.attacks, index=rows,
                start=self.adv[rows] if stage.warm else None,
            )  # fmt: skip
            judged = self._judged(found.adv, rows)
            judged["queries"] += found.queries
            return judged

        def run_each(rows: Tensor) -> dict[str, Tensor]:
            """Go for all rivals at once, each in a row of its own: few images fill a batch."""
            z = self.network.decide(self.x[rows])[0]
            order = highest_rivals(self.network.head.scores(z), self.y[rows], stage.attack.targets)
            each = rows.repeat_interleave(order.shape[1])
            found = stage.attack.run(
                model, self.x[each], self.y[each], seed=self.seed + self.attacks, index=each,
                rivals=order.reshape(-1, 1),
            )  # fmt: skip
            judged = self._judged(found.adv, each)
            judged["queries"] += found.queries
            return _best(judged, order.shape[1])

        if targets := stage.attack.targets:
            block = max(BLOCK // targets, 1)
            return self._all(stage.name, repr(stage.attack), run_each, block)
        return self._all(stage.name, repr(stage.attack), run)

    def try_images(self, name: str, images: Tensor) -> Contribution:
        """Try images (N, ...) that somebody else made."""
        return self._all(name, "", lambda rows: self._judged(images[rows], rows))

    def _all(self, name: str, attack: str, run: Run, block: int | None = None) -> Contribution:
        standing = (~self.broken).nonzero().flatten()
        broke, evaluations, seconds = 0, 0, 0.0
        self.tracker.note(f"{name}: {len(standing)} standing")
        for rows in self._blocks(standing, block):
            found = self._once(f"{self.attacks:02d}", rows, run)
            better = found["broken"] | (found["margin"] > self.margin[rows])
            adv = torch.where(beside(better, found["adv"]), found["adv"], self.adv[rows])
            self.adv[rows] = adv
            self.decision[rows] = torch.where(better, found["decision"], self.decision[rows])
            self.margin[rows] = torch.where(better, found["margin"], self.margin[rows])
            self.broken_by[rows[found["broken"]]] = self.attacks
            self.queries[rows] += found["queries"]
            broke += int(found["broken"].sum())
            evaluations += int(found["queries"].sum())
            seconds += float(found["seconds"])
            self.tracker.advance(len(rows))
        self.tracker.advance(len(self.x) - len(standing))
        self.attacks += 1
        return Contribution(name, attack, len(standing), broke, evaluations, seconds)

    def _judged(self, adv: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Decide about images, once they are inside ball and box whatever their maker says."""
        adv = adv.clone()
        eps = adv.new_full((len(adv),), self.eps)
        into_ball(adv, self.x[rows].contiguous(), eps, self.norm, self.clip)
        z, decision, valid = self.network.decide(adv)
        margin = on_scores("margin")(self.network.head.scores(z), self.y[rows]).double()
        return {
            "adv": adv,
            "decision": torch.where(valid, decision, -1),
            "margin": margin.nan_to_num(nan=-torch.inf),
            # Where a model gives NaN it decides nothing: no attack gets credit for that.
            "broken": (decision != self.y[rows]) & valid,
            "valid": valid,
            "queries": torch.ones_like(rows),
        }

    def _blocks(self, rows: Tensor, size: int | None = None) -> tuple[Tensor, ...]:
        return rows.split(size or BLOCK) if len(rows) else ()

    def _once(self, name: str, rows: Tensor, run: Run) -> dict[str, Tensor]:
        """Run a piece of work, or take what the journal has of it."""

        def compute() -> dict[str, np.ndarray]:
            start = time.perf_counter()
            found = {key: value.cpu().numpy() for key, value in run(rows).items()}
            seconds = np.array(time.perf_counter() - start)
            return {**found, "rows": rows.cpu().numpy(), "seconds": seconds}

        kept = self.journal.once(f"{name}-{int(rows[0]):07d}", compute)
        return {
            key: torch.from_numpy(np.asarray(value)).to(self.x.device)
            for key, value in kept.items()
        }


def _best(judged: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Of `count` rows for each image keep the first that is broken, else the closest."""
    closeness = judged["margin"].masked_fill(judged["broken"], torch.inf).view(-1, count)
    first = torch.arange(len(closeness), device=closeness.device) * count
    kept = {name: value[first + closeness.argmax(1)] for name, value in judged.items()}
    kept["queries"] = judged["queries"].view(-1, count).sum(1) + 1  # and one for the rivals
    return kept
