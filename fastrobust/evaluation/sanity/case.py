"""What is looked at, what a check says, and what the checks share."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ... import engine
from ...attacks import APGD, FGSM, PGD
from ...attacks.base import Attack
from ...engine.prepared import Model, Prepared
from ...models.heads import Head
from ...utils.modules import in_its_dtype
from ...utils.stats import sign_test

Verdict = Literal["pass", "warn", "fail", "skipped"]


@dataclass(frozen=True, eq=False)
class Case:
    """An evaluation, as the checks see it.

    Attributes:
        model: A Classifier, or any module or callable that returns class scores.
        x: (N, ...) images.
        y: (N,) int64 labels.
        eps: Radius of the ball, in pixel units and the units of `norm`.
        norm: ``"linf"`` or ``"l2"``.
        clip: Box of the pixels, or None.
        seed: Of random numbers.
        adv: (N, ...) the images that the evaluation came to, if there was one.
        broken: (N,) bool, its verdict.
        transferred: (N, ...) images made on another model, if there are any.
    """

    model: Model
    x: Tensor
    y: Tensor
    eps: float
    norm: str = "linf"
    clip: tuple[float, float] | None = (0.0, 1.0)
    seed: int = 0
    adv: Tensor | None = None
    broken: Tensor | None = None
    transferred: Tensor | None = None


@dataclass(frozen=True)
class Check:
    """One reason to believe a robust accuracy, or not.

    Attributes:
        name: A few words.
        verdict: ``"pass"``; ``"warn"``: look at it; ``"fail"``: the number cannot be believed;
            ``"skipped"``: it does not apply, `found` says why.
        number: What was measured.
        found: One sentence with the figures.
        advice: One sentence: what to do about a warning or a failure.
        images: Places in x of the images concerned.
    """

    name: str
    verdict: Verdict
    number: float | None
    found: str
    advice: str
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Effort:
    """How many images the checks look at, and how long their attacks are."""

    images: int
    steps: int
    restarts: int
    queries: int
    draws: int


EFFORTS = {
    "quick": Effort(32, 20, 3, 300, 100),
    "standard": Effort(128, 40, 5, 1000, 1000),
    "thorough": Effort(512, 100, 10, 5000, 10000),
}


@dataclass(frozen=True, eq=False)
class Probe:
    """The images that the checks look at, and attacks on them that several checks need.

    They are the first images that the model gets right. An attack is run once.
    """

    case: Case
    effort: Effort
    _runs: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def model(self) -> Prepared:
        """The model as attacks run it."""
        return engine.prepare(self.case.model)

    @cached_property
    def places(self) -> Tensor:
        """(n,) int64 where the images stand in the case."""
        some = slice(8 * self.effort.images)
        right = self.predict(self.case.x[some]) == self.case.y[some]
        return right.nonzero().flatten()[: self.effort.images]

    def predict(self, x: Tensor) -> Tensor:
        """Return the model's decisions (N,)."""
        return self.model.predict(in_its_dtype(self.model, x))

    @property
    def x(self) -> Tensor:
        """(n, ...) the images."""
        return self.case.x[self.places]

    @property
    def y(self) -> Tensor:
        """(n,) their labels."""
        return self.case.y[self.places]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def ball(self) -> dict[str, Any]:
        """Fields of an attack in the case's ball and box."""
        return {"eps": self.case.eps, "norm": self.case.norm, "clip": self.case.clip}

    def broken(self, attack: Attack[Any], head: Head | None = None, **options: Any) -> Tensor:
        """Return which images (n,) an attack breaks, perhaps by the scores of another head."""
        if not len(self):
            return torch.zeros(0, dtype=torch.bool, device=self.case.x.device)
        key = f"{attack!r} {head and vars(head)} {sorted(options)}"
        if key not in self._runs:
            model = self.model if head is None else self.model.under(head)
            options = {"seed": self.case.seed, "index": self.places, **options}
            self._runs[key] = attack.run(model, self.x, self.y, **options).success
        return self._runs[key]

    def pgd(self, steps: int | None = None, **fields: Any) -> PGD:
        """Return the attack that most checks compare with: PGD on the cross-entropy."""
        steps = steps or self.effort.steps
        eps = fields.get("eps", self.case.eps)
        plain = {"steps": steps, "step_size": 2.5 * eps / steps, "random_start": False}
        return PGD(**{**self.ball, **plain, **fields})

    @cached_property
    def one_step(self) -> Tensor:
        """(n,) bool, images that a single step breaks."""
        if self.case.norm == "linf":
            return self.broken(FGSM(eps=self.case.eps, clip=self.case.clip))
        return self.broken(self.pgd(steps=1, step_size=self.case.eps))

    @cached_property
    def by_gradient(self) -> Tensor:
        """(n,) bool, images that one of two long attacks by gradient breaks."""
        attacks = (
            APGD(loss=loss, steps=self.effort.steps, **self.ball) for loss in ("ce", "margin")
        )
        return torch.stack([self.broken(attack) for attack in attacks]).any(0)

    def where(self, flags: Tensor) -> tuple[int, ...]:
        """Return the places in the case of the images (n,) that are flagged."""
        return tuple(self.places[flags].tolist())


def more(first: Tensor, second: Tensor) -> float:
    """Chance that images in `first` alone outnumber those in `second` alone so far by luck."""
    return sign_test(int((first & ~second).sum()), int((second & ~first).sum()))


def several(count: int, total: int, share: float) -> bool:
    """Whether `count` of `total` images are three or more, and more than a share of them."""
    return count >= 3 and count > share * total


def skipped(name: str, why: str) -> Check:
    """Return a check that does not apply."""
    return Check(name, "skipped", None, why, "")
