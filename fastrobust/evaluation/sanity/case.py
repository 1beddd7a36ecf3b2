"""What the checks look at, and what they share."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...attacks.apgd import APGD
from ...attacks.base import Attack
from ...attacks.sign import FGSM, PGD
from ...engine.prepared import Model, Prepared, prepare
from ...models.heads import Head
from ...utils.modules import in_its_dtype
from ..comparisons import FEW, Survival, Verdict, by_share
from ..results import Check
from ..threat_model import ThreatModel


@dataclass(frozen=True, eq=False)
class Case:
    """An evaluation, as the checks see it.

    Attributes:
        model: A Classifier, or any module or callable that returns class scores.
        x: (N, ...) images.
        y: (N,) int64 labels.
        threat: What the attacker may do.
        seed: Seed of random numbers.
        adv: (N, ...) the images that the evaluation returned, if there was one.
        broken: (N,) bool, the images that it counts as broken.
        transferred: (N, ...) images made on another model, if there are any.
    """

    model: Model
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int = 0
    adv: Tensor | None = None
    broken: Tensor | None = None
    transferred: Tensor | None = None


@dataclass(frozen=True)
class CheckSize:
    """How many images the checks of a budget look at, and how long their attacks are."""

    images: int
    steps: int
    restarts: int
    queries: int
    draws: int


CHECK_SIZES = {
    "quick": CheckSize(32, 20, 3, 300, 100),
    "standard": CheckSize(128, 40, 5, 1000, 1000),
    "thorough": CheckSize(512, 100, 10, 5000, 10000),
}


@dataclass(frozen=True, eq=False)
class Probe:
    """The images that the checks look at, and attacks on them that several checks need.

    They are the first images that the model classifies correctly. An attack runs once.
    """

    case: Case
    size: CheckSize
    _runs: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def model(self) -> Prepared:
        """The model as attacks run it."""
        return prepare(self.case.model)

    @cached_property
    def indices(self) -> Tensor:
        """(n,) int64 indices of the images in the case."""
        some = slice(8 * self.size.images)
        right = self.predict(self.case.x[some]) == self.case.y[some]
        return right.nonzero().flatten()[: self.size.images]

    def predict(self, x: Tensor) -> Tensor:
        """Return the model's decisions (N,)."""
        return self.model.predict(in_its_dtype(self.model, x))

    @property
    def x(self) -> Tensor:
        """(n, ...) the images."""
        return self.case.x[self.indices]

    @property
    def y(self) -> Tensor:
        """(n,) their labels."""
        return self.case.y[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def threat(self) -> ThreatModel:
        """What the attacker may do."""
        return self.case.threat

    def broken(self, attack: Attack[Any], head: Head | None = None, **options: Any) -> Tensor:
        """Return which images (n,) an attack breaks, perhaps by the scores of another head."""
        if not len(self):
            return torch.zeros(0, dtype=torch.bool, device=self.case.x.device)
        key = f"{attack!r} {head and vars(head)} {sorted(options)}"
        if key not in self._runs:
            model = self.model if head is None else self.model.under(head)
            options = {"seed": self.case.seed, "index": self.indices, **options}
            self._runs[key] = attack.run(model, self.x, self.y, **options).success
        return self._runs[key]

    def pgd(self, steps: int | None = None, **fields: Any) -> PGD:
        """Return the attack that most checks compare with: PGD on the cross-entropy."""
        steps = steps or self.size.steps
        eps = fields.get("eps", self.threat.eps)
        plain = {"steps": steps, "step_size": 2.5 * eps / steps, "random_start": False}
        return PGD(**{**self.threat.fields, **plain, **fields})

    @cached_property
    def one_step(self) -> Tensor:
        """(n,) bool, images that a single step breaks."""
        if self.threat.norm == "linf":
            return self.broken(FGSM(eps=self.threat.eps, clip=self.threat.clip))
        return self.broken(self.pgd(steps=1, step_size=self.threat.eps))

    @cached_property
    def by_gradient(self) -> Tensor:
        """(n,) bool, images that one of two long attacks by gradient breaks."""
        attacks = (
            APGD(loss=loss, steps=self.size.steps, **self.threat.fields)
            for loss in ("ce", "margin")
        )
        return torch.stack([self.broken(attack) for attack in attacks]).any(0)

    def where(self, flags: Tensor) -> tuple[int, ...]:
        """Return the indices in the case of the flagged images (n,)."""
        return tuple(self.indices[flags].tolist())


def counted(
    name: str,
    flags: Tensor,
    found: str,
    advice: str,
    verdict: Verdict,
    indices: Tensor | None = None,
) -> Check:
    """Return a check of how many images are flagged.

    Args:
        name: Name of the check.
        flags: (n,) bool.
        found: What they are, with {} for ``3 of 48 images``.
        advice: What to do about it.
        verdict: The verdict.
        indices: (n,) indices of the images in the case; None where they are its first n.
    """
    count, rows = int(flags.sum()), flags.nonzero().flatten()
    text = found.format(f"{count} of {len(flags)} images")
    images = rows if indices is None else indices[rows]
    return Check(name, verdict, count, text, advice, tuple(images.tolist()))


def share_of(flags: Tensor, *, fail: float = 1.0, warn: float, few: int = FEW) -> Verdict:
    """Return the verdict on the flagged images, see :func:`comparisons.by_share`."""
    return by_share(int(flags.sum()), len(flags), fail=fail, warn=warn, few=few)


def survival(broken: Tensor) -> Survival:
    """Return the survival under an attack that broke these images (n,) bool."""
    return Survival.of(broken.cpu().numpy())


def skipped(name: str, why: str) -> Check:
    """Return a check that does not apply."""
    return Check(name, "skipped", None, why, "")
