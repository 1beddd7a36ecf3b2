"""Bisection for the smallest value of a parameter at which an attack succeeds on every image.

It measures few of the values in its plan. The next value follows from the rates measured so far, so
that an interrupted sweep can go on, and a report can compute the outcome.
"""

from collections.abc import Iterable, Mapping


def next_probe(values: Iterable[float], rate_by_value: Mapping[float, float]) -> float | None:
    """Return the value to measure next, or None once the outcome is known.

    The success rate is taken to rise with the value: above a rate of 1 it is 1, below a lower rate
    it is lower. The search ends when the smallest value with rate 1 and the one before it have been
    measured, or when the largest value has a lower rate.

    Args:
        values: The values that may be measured, in any order.
        rate_by_value: Success rates of the values measured so far; other values are ignored.

    >>> from fastrobust.runs import bisection
    >>> bisection.next_probe([0.1, 0.2, 0.3], {})
    0.2
    >>> bisection.next_probe([0.1, 0.2, 0.3], {0.2: 1.0})
    0.1
    >>> bisection.next_probe([0.1, 0.2, 0.3], {0.2: 1.0, 0.1: 0.9}) is None
    True
    """
    grid = sorted(values)
    known = [rate_by_value.get(value) for value in grid]
    full = next((n for n, rate in enumerate(known) if rate is not None and rate >= 1), len(grid))
    lower = max((n for n in range(full) if known[n] is not None), default=-1)
    return None if full - lower <= 1 else grid[(lower + full) // 2]


def outcome(values: Iterable[float], rate_by_value: Mapping[float, float]) -> float | None:
    """Return the smallest value with a success rate of 1, or else the largest value measured.

    Args:
        values: The values that may be measured.
        rate_by_value: Success rates of the values measured so far.

    >>> from fastrobust.runs import bisection
    >>> bisection.outcome([0.1, 0.2, 0.3], {0.2: 1.0, 0.1: 0.9})
    0.2
    """
    measured = sorted(value for value in values if value in rate_by_value)
    full = (value for value in measured if rate_by_value[value] >= 1)
    return next(full, measured[-1] if measured else None)
