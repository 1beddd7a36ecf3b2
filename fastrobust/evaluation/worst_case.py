"""The worst that attacks do to each image of a set, one attack after another."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..attacks.state import beside
from ..attacks.targets import highest_rivals
from ..engine.gradients import Oracle
from ..engine.prepared import Prepared
from ..engine.score_losses import on_scores
from ..utils.progress import Tracker
from .cache import Journal
from .results import Contribution
from .suite import Stage
from .threat_model import ThreatModel

Piece = Callable[[Tensor], dict[str, Tensor]]

BLOCK = 512  # images that one piece of work holds: the most that a killed evaluation loses


class WorstCase:
    """Runs attacks on the images not yet broken, and keeps the worst case of each image.

    Args:
        model: The model under attack.
        network: The same model, opened; its decisions count.
        x: (N, ...) images.
        y: (N,) int64 labels.
        threat: What the attacker may do.
        seed: Seed of random starts; the k-th attack gets seed + k.
        journal: Keeps finished pieces.
        tracker: Shows progress by image and attack.

    Attributes:
        adv: (N, ...) the image that broke each, else the one that came closest.
        decision: (N,) int64 decided class of `adv`.
        margin: (N,) by how much the best wrong class is above the label there.
        correct: (N,) bool, whether the clean image is classified correctly.
        broken_by: (N,) int64 index of the attack that broke it, -1 for none.
        queries: (N,) int64 forwards and backwards.
    """

    def __init__(
        self,
        model: Prepared,
        network: Oracle,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        seed: int,
        journal: Journal,
        tracker: Tracker,
    ) -> None:
        self.model, self.network, self.x, self.y = model, network, x, y
        self.threat, self.seed = threat, seed
        self.journal, self.tracker = journal, tracker
        self.attacks = 0
        self.adv = x.clone()
        self.decision = torch.full_like(y, -1)
        self.margin = torch.full_like(y, -torch.inf, dtype=torch.float64)
        self.correct = torch.zeros_like(y, dtype=torch.bool)
        self.broken_by = torch.full_like(y, -1)
        self.queries = torch.zeros_like(y)
        for rows in self._blocks(torch.arange(len(x), device=x.device)):
            outcome = self._once("clean", rows, lambda rows: self._outcome(x[rows], rows))
            self.margin[rows], self.decision[rows] = outcome["margin"], outcome["decision"]
            self.correct[rows] = outcome["valid"] & ~outcome["broken"]
            self.queries[rows] += outcome["queries"]
            tracker.advance(len(rows))

    @property
    def broken(self) -> Tensor:
        """(N,) bool, whether the clean image or an attack's image is misclassified."""
        return ~self.correct | (self.broken_by >= 0)

    def attack(self, stage: Stage) -> Contribution:
        """Run one attack on every image not yet broken."""
        model = self.model if stage.head is None else self.model.under(stage.head)

        def run(rows: Tensor) -> dict[str, Tensor]:
            attacked = stage.attack.run(
                model, self.x[rows], self.y[rows], seed=self.seed + self.attacks, index=rows,
                start=self.adv[rows] if stage.warm else None,
            )  # fmt: skip
            outcome = self._outcome(attacked.adv, rows)
            outcome["queries"] += attacked.queries
            return outcome

        def run_each(rows: Tensor) -> dict[str, Tensor]:
            """Attack towards all rival classes at once, one row each: few images fill a batch."""
            z = self.network.decide(self.x[rows])[0]
            order = highest_rivals(self.network.head.scores(z), self.y[rows], stage.attack.targets)
            each = rows.repeat_interleave(order.shape[1])
            attacked = stage.attack.run(
                model, self.x[each], self.y[each], seed=self.seed + self.attacks, index=each,
                rivals=order.reshape(-1, 1),
            )  # fmt: skip
            outcome = self._outcome(attacked.adv, each)
            outcome["queries"] += attacked.queries
            return _best(outcome, order.shape[1])

        if targets := stage.attack.targets:
            block = max(BLOCK // targets, 1)
            return self._all(stage.name, repr(stage.attack), run_each, block)
        return self._all(stage.name, repr(stage.attack), run)

    def try_images(self, name: str, images: Tensor) -> Contribution:
        """Try images (N, ...) that were made on another model."""
        return self._all(name, "", lambda rows: self._outcome(images[rows], rows))

    def _all(self, name: str, attack: str, piece: Piece, block: int | None = None) -> Contribution:
        unbroken = (~self.broken).nonzero().flatten()
        broke, evaluations, seconds = 0, 0, 0.0
        self.tracker.note(f"{name}: {len(unbroken)} unbroken")
        for rows in self._blocks(unbroken, block):
            outcome = self._once(f"{self.attacks:02d}", rows, piece)
            better = outcome["broken"] | (outcome["margin"] > self.margin[rows])
            adv = torch.where(beside(better, outcome["adv"]), outcome["adv"], self.adv[rows])
            self.adv[rows] = adv
            self.decision[rows] = torch.where(better, outcome["decision"], self.decision[rows])
            self.margin[rows] = torch.where(better, outcome["margin"], self.margin[rows])
            self.broken_by[rows[outcome["broken"]]] = self.attacks
            self.queries[rows] += outcome["queries"]
            broke += int(outcome["broken"].sum())
            evaluations += int(outcome["queries"].sum())
            seconds += float(outcome["seconds"])
            self.tracker.advance(len(rows))
        self.tracker.advance(len(self.x) - len(unbroken))
        self.attacks += 1
        return Contribution(name, attack, len(unbroken), broke, evaluations, seconds)

    def _outcome(self, adv: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Return decisions and margins of images, moved into ball and box first."""
        adv = self.threat.project(adv.clone(), self.x[rows])
        z, decision, valid = self.network.decide(adv)
        margin = on_scores("margin")(self.network.head.scores(z), self.y[rows]).double()
        return {
            "adv": adv,
            "decision": torch.where(valid, decision, -1),
            "margin": margin.nan_to_num(nan=-torch.inf),
            # NaN is no decision: no attack gets credit for it.
            "broken": (decision != self.y[rows]) & valid,
            "valid": valid,
            "queries": torch.ones_like(rows),
        }

    def _blocks(self, rows: Tensor, size: int | None = None) -> tuple[Tensor, ...]:
        return rows.split(size or BLOCK) if len(rows) else ()

    def _once(self, name: str, rows: Tensor, piece: Piece) -> dict[str, Tensor]:
        """Return the arrays of a piece, computed or from the journal."""

        def compute() -> dict[str, np.ndarray]:
            start = time.perf_counter()
            arrays = {key: value.cpu().numpy() for key, value in piece(rows).items()}
            seconds = np.array(time.perf_counter() - start)
            return {**arrays, "rows": rows.cpu().numpy(), "seconds": seconds}

        kept = self.journal.once(f"{name}-{int(rows[0]):07d}", compute)
        return {
            key: torch.from_numpy(np.asarray(value)).to(self.x.device)
            for key, value in kept.items()
        }


def _best(outcome: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return one of each image's `count` rows: the first that is broken, else the closest."""
    closeness = outcome["margin"].masked_fill(outcome["broken"], torch.inf).view(-1, count)
    first = torch.arange(len(closeness), device=closeness.device) * count
    kept = {name: value[first + closeness.argmax(1)] for name, value in outcome.items()}
    kept["queries"] = outcome["queries"].view(-1, count).sum(1) + 1  # and one for the rivals
    return kept
