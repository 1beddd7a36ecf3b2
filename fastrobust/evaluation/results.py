"""What an evaluation finds: the worst case of each image, the part of each attack, the checks."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..utils.stats import Rate
from .comparisons import Verdict


@dataclass(frozen=True)
class Contribution:
    """What one attack of an evaluation did.

    Attributes:
        name: The attack in a few words.
        attack: Its repr, "" for the images of other models.
        tried: Number of images that no attack had broken before.
        broke: Number of those that it broke.
        evaluations: Forwards and backwards of one image that it took.
        seconds: Its time.
    """

    name: str
    attack: str
    tried: int
    broke: int
    evaluations: int
    seconds: float


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
        images: Indices in x of the images concerned.
    """

    name: str
    verdict: Verdict
    number: float | None
    found: str
    advice: str
    images: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`evaluate` found for N images.

    Attributes:
        adv: (N, ...) the adversarial image of each broken image, else the attack's image that came
            closest; x itself where the clean image is misclassified.
        decision: (N,) int64 decided class of `adv`, -1 where the model gives NaN.
        correct: (N,) bool, whether the clean image is classified correctly.
        broken: (N,) bool, whether the clean image or an attack's image is misclassified.
        broken_by: (N,) int64 index in `contributions` of the attack that broke it, -1 for none.
        queries: (N,) int64 forwards and backwards that it took.
        contributions: What each attack did, in order.
        checks: Reasons to believe the result or not.
        facts: eps, norm, budget, seed, clip and digests of images and weights.
    """

    adv: Tensor
    decision: Tensor
    correct: Tensor
    broken: Tensor
    broken_by: Tensor
    queries: Tensor
    contributions: tuple[Contribution, ...]
    checks: tuple[Check, ...]
    facts: dict[str, Any]

    @property
    def clean_accuracy(self) -> float:
        """Share of images that the model classifies correctly."""
        return float(self.correct.double().mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of images that it classifies correctly under every attack: an upper bound."""
        return self.rate.value

    @property
    def rate(self) -> Rate:
        """The robust accuracy with its number of images."""
        return Rate(int((~self.broken).sum()), len(self.broken))

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the robust accuracy, for the choice of images alone."""
        return self.rate.interval

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return self.names("fail")

    @property
    def believable(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def names(self, verdict: Verdict) -> tuple[str, ...]:
        """Return the names of the checks with this verdict."""
        return tuple(check.name for check in self.checks if check.verdict == verdict)

    @property
    def evaluations(self) -> int:
        """Forwards and backwards of one image that it took."""
        return int(self.queries.sum())

    @property
    def seconds(self) -> float:
        """Time of the attacks."""
        return sum(contribution.seconds for contribution in self.contributions)

    def __repr__(self) -> str:
        low, high = self.interval
        doubts = [check for check in self.checks if check.verdict in ("warn", "fail")]
        flags = [f"{check.name} ({check.verdict})" for check in doubts]
        return (
            f"Evaluation(robust_accuracy={self.robust_accuracy:.4f} [{low:.4f}, {high:.4f}], "
            f"clean_accuracy={self.clean_accuracy:.4f}, images={len(self.broken)}, "
            f"flags={', '.join(flags) or 'none'})"
        )
