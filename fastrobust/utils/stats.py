"""Intervals and tests of rates over a finite number of images."""

import math
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054  # the 97.5% quantile of the normal distribution


def wilson(hits: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """Return Wilson's score interval of a rate, 95% by default.

    Unlike the normal interval it stays inside [0, 1] and does not shrink to zero at rates of 0 and
    1, which are common in robustness tables (E. B. Wilson, JASA 22, 1927, pp. 209-212).

    Args:
        hits: Number of successes, 0 to `count`.
        count: Number of images, at least 1.
        z: Quantile of the normal distribution.

    Raises:
        ValueError: `count` is not positive or `hits` lies outside [0, count].

    >>> from fastrobust.utils import stats
    >>> low, high = stats.wilson(0, 200)
    >>> low, round(high, 3)
    (0.0, 0.019)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not 0 <= hits <= count:
        raise ValueError(f"hits must lie in [0, {count}], got {hits}")
    rate = hits / count
    scale = 1 + z * z / count
    centre = (rate + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    # Without this, rounding would give 1e-18 instead of 0.
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == count else centre + half
    return low, high


def sign_test(more: int, fewer: int) -> float:
    """Return the p-value of the exact sign test: `more` or more of `more + fewer` by fair coins.

    One-sided, for paired yes-or-no results that differ (McNemar, Psychometrika 12, 1947, pp.
    153-157): `more` of them go one way and `fewer` the other.

    >>> from fastrobust.utils import stats
    >>> stats.sign_test(3, 0)
    0.125
    """
    count = more + fewer
    return sum(math.comb(count, k) for k in range(more, count + 1)) / 2**count


def difference(one: float, other: float, counts: tuple[int, int]) -> float:
    """Return the two-sided p-value of a difference of two rates.

    The z-test of two proportions with their pooled variance: a chi-squared test without correction.
    It takes the samples for independent. Over the same images chance differences are smaller, so
    a difference that it calls significant is significant there too.

    Args:
        one: A rate in [0, 1].
        other: Another one.
        counts: Number of images of each, at least 1.

    Raises:
        ValueError: A rate lies outside [0, 1], or a count is not positive.

    >>> from fastrobust.utils import stats
    >>> round(stats.difference(0.346, 0.368, (1000, 1000)), 2)
    0.3
    """
    if min(counts) < 1:
        raise ValueError(f"counts must be at least 1, got {counts}")
    if not (0 <= one <= 1 and 0 <= other <= 1):
        raise ValueError(f"rates must lie in [0, 1], got {one} and {other}")
    pooled = (one * counts[0] + other * counts[1]) / sum(counts)
    variance = pooled * (1 - pooled) * (1 / counts[0] + 1 / counts[1])
    return math.erfc(abs(one - other) / math.sqrt(2 * variance)) if variance else 1.0


@dataclass(frozen=True)
class Rate:
    """A share of images with its Wilson 95% interval."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.hits / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return wilson(self.hits, self.count)

    @classmethod
    def of(cls, flags: np.ndarray) -> "Rate":
        """Count the true entries of `flags` (N,)."""
        return cls(int(flags.sum()), len(flags))
