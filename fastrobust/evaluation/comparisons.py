"""When one attack contradicts another: one set of rules for runs, published tables and checks.

True robust accuracy is at most the accuracy under any attack. So an attack that may do more (more
steps, a larger eps, gradients of the model itself, no bound) must not leave the defender more than
one that may do less. Where it does, the stronger attack failed: its number is not the robustness
(Athalye, Carlini, Wagner 2018, arXiv 1802.00420, section 3.1).

Which test applies:

- Where it is known which of the same images each attack broke: the exact sign test on the images
  that only one of them broke (McNemar 1947). It fails from seven such images on.
- Where only two rates are known: the z-test of two proportions. It takes the samples for
  independent, so on the same images it errs on the side of the stronger attack.
- Where nothing bounds an attack: Wilson's lower limit of what it leaves, against a guess.

Thresholds:

- `LEVEL`: a contradiction fails where chance makes it less often than once in a hundred. A table
  of a hundred numbers then raises about one false alarm.
- `DOUBT`: two rates are a warning where chance makes such a difference less often than not.
- `ROUNDING`: two equal rates may differ by this when printed with three decimals.
- `FEW`, `MISSED`: three images, and more than a share of them, that only the weaker attack breaks
  are a warning, whatever the stronger one breaks besides.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from ..utils import stats

Verdict = Literal["pass", "warn", "fail", "skipped"]

LEVEL, DOUBT, ROUNDING = 0.01, 0.5, 0.001
FEW, MISSED, MISSED_BLIND = 3, 0.05, 0.02
_Z_LEVEL = NormalDist().inv_cdf(1 - LEVEL / 2)


@dataclass(frozen=True, eq=False)
class Survival:
    """How many images survive an attack.

    Attributes:
        defended: Share of the images that it did not break.
        count: Number of images.
        broken: (count,) bool, the images that it broke; None where only the share is known.
    """

    defended: float
    count: int
    broken: np.ndarray | None = None

    @classmethod
    def of(cls, broken: np.ndarray) -> "Survival":
        """Return the survival under an attack that broke these images (count,)."""
        return cls(1 - float(broken.mean()) if len(broken) else 0.0, len(broken), broken)


def chance(weaker: Survival, stronger: Survival) -> float:
    """Return the p-value of the difference between two attacks.

    One-sided where the broken images of both are known, else two-sided.
    """
    if weaker.broken is None or stronger.broken is None:
        counts = weaker.count, stronger.count
        return stats.difference(weaker.defended, stronger.defended, counts)
    only = int((weaker.broken & ~stronger.broken).sum())
    return stats.sign_test(only, int((stronger.broken & ~weaker.broken).sum()))


def beats(weaker: Survival, stronger: Survival, *, blind: bool = False) -> Verdict:
    """Return ``"fail"`` where a weaker attack does better than a stronger one.

    ``"warn"`` where chance may explain it, or where the weaker attack alone breaks some images.

    Args:
        weaker: The attack that may do less.
        stronger: The attack that may do more, on the same images.
        blind: The weaker attack has no gradients of the model. An image that it alone breaks then
            shows that gradients are masked: more than `MISSED` of them fail, more than
            `MISSED_BLIND` are a warning.

    Example:
        >>> beats(Survival(0.33, 1000), Survival(0.97, 1000))
        'fail'
        >>> beats(Survival(0.50, 1000), Survival(0.52, 1000))
        'warn'
        >>> beats(Survival.of(np.arange(100) < 60), Survival.of(np.arange(100) < 30))
        'fail'
    """
    worse = stronger.defended - weaker.defended > ROUNDING + 1e-9
    by_chance = chance(weaker, stronger)
    if worse and by_chance < LEVEL:
        return "fail"
    if weaker.broken is None or stronger.broken is None:
        return "warn" if worse and by_chance < DOUBT else "pass"
    missed = weaker.broken & ~stronger.broken
    if blind:
        return by_share(int(missed.sum()), len(missed), fail=MISSED, warn=MISSED_BLIND)
    return by_share(int(missed.sum()), len(missed), warn=MISSED)


def survivors(survival: Survival, guess: float) -> Verdict:
    """Return ``"fail"`` where an unbounded attack leaves more than a guess is right on.

    Every image can become any other without a bound, so a classifier keeps no more than `guess`.

    Example:
        >>> survivors(Survival(0.15, 1000), 0.1), survivors(Survival(0.12, 1000), 0.1)
        ('fail', 'warn')
    """
    hits = round(survival.defended * survival.count)
    if survival.count and stats.wilson(hits, survival.count, _Z_LEVEL)[0] > guess:
        return "fail"
    return by_share(hits, survival.count, warn=MISSED_BLIND)


def by_share(count: int, total: int, *, fail: float = 1.0, warn: float, few: int = FEW) -> Verdict:
    """Return the verdict on `count` of `total` images.

    ``"fail"`` for `FEW` or more, and more than a share `fail` of them; else ``"warn"`` for `few` or
    more, and more than a share `warn`.
    """
    if count >= FEW and count > fail * total:
        return "fail"
    return "warn" if count >= few and count > warn * total else "pass"
