"""The search behind Figure 1: the smallest value of a parameter at which an attack always succeeds.

A search looks at few of the values that its plan allows. Which one comes next is a function of
what has been measured so far, so a sweep that was stopped goes on, and a report sees the outcome.
"""

from collections.abc import Iterable, Mapping


def next_probe(values: Iterable[float], rate_by_value: Mapping[float, float]) -> float | None:
    """Return the value to measure next, or None once the outcome is known.

    Bisection: it assumes that more room never helps the defender, so that every value above a whole
    success is whole and every value below a failure fails. It ends when the smallest whole value
    has been measured together with the one before it, or when the largest value has failed.

    Args:
        values: The values that may be measured, in any order.
        rate_by_value: Success rates of those that have been; other values are ignored.

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
    whole = next((n for n, rate in enumerate(known) if rate is not None and rate >= 1), len(grid))
    failed = max((n for n in range(whole) if known[n] is not None), default=-1)
    return None if whole - failed <= 1 else grid[(failed + whole) // 2]


def outcome(values: Iterable[float], rate_by_value: Mapping[float, float]) -> float | None:
    """Return the smallest value whose success is known to be whole, else the largest measured.

    Args:
        values: The values that may be measured.
        rate_by_value: Success rates of those that have been; its value tells which of both it is.

    >>> from fastrobust.runs import bisection
    >>> bisection.outcome([0.1, 0.2, 0.3], {0.2: 1.0, 0.1: 0.9})
    0.2
    """
    measured = sorted(value for value in values if value in rate_by_value)
    whole = (value for value in measured if rate_by_value[value] >= 1)
    return next(whole, measured[-1] if measured else None)
