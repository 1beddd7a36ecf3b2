"""Which rates the paper's conclusions compare, in its numbers and in ours alike.

A comparison takes rates and a protocol, and returns pairs of places. The first rate of a pair
should be the higher one.
"""

from collections.abc import Callable

from ...paper.columns import CE, CODED, MSE, PGD_ON_SCORES
from .rates import Pairs, Place, Rates, printed_rates

Comparison = Callable[[Rates, str], Pairs]


def _columns(rates: Rates, table: int, view: str) -> list[tuple[str, float | None]]:
    """Return the columns of a table; under the paper's protocol those that it printed."""
    names = {place.column for place in printed_rates("mnist") if place.table == table}
    return list(dict.fromkeys(
        (place.column, place.value)
        for place in rates
        if (place.table, place.view) == (table, view) and (view == "class" or place.column in names)
    ))  # fmt: skip


def untargeted(rates: Rates, view: str) -> Pairs:
    """Accuracy under untargeted attack against that of O:SOFTMAX:CE."""
    for column in _columns(rates, 3, view):
        for model in (MSE, CODED):
            yield Place(3, model, *column, view), Place(3, CE, *column, view)


def targeted(rates: Rates, view: str) -> Pairs:
    """Targeted success on O:SOFTMAX:CE against that on the others."""
    for column in _columns(rates, 5, view):
        for model in (MSE, CODED):
            yield Place(5, CE, *column, view), Place(5, model, *column, view)


def gain(_: Rates, view: str) -> Pairs:
    """Success of the modified CWL2 on R:TANH:MSE against that of CWL2."""
    return [(Place(7, CODED, "modified CWL2", 0.1), Place(7, CODED, "CWL2", 0.1, view))]


def loss(_: Rates, view: str) -> Pairs:
    """Success of CWL2 on O:SOFTMAX:CE against that of the modified CWL2."""
    return [(Place(7, CE, "CWL2", c, view), Place(7, CE, "modified CWL2", c)) for c in (0.1, 1.0)]


def rise(table: int, column: str, models: tuple[str, ...], low: float, high: float) -> Comparison:
    """Return the comparison of the success at one constant c with that at another."""
    return lambda _, view: [
        (Place(table, model, column, high, view), Place(table, model, column, low, view))
        for model in models
    ]


def still_lower(_: Rates, view: str) -> Pairs:
    """Success on O:SOFTMAX:CE against that on R:TANH:MSE under the better attack."""
    column = "modified CWL2" if view == "paper" else "CWL2"
    return [(Place(7, CE, column, c, view), Place(7, CODED, column, c, view)) for c in (0.1, 1.0)]


def black_box(rates: Rates, view: str) -> Pairs:
    """Accuracy under transfer against that under attack on the victim itself."""
    for place in rates:
        if place.table == 6:
            honest = view == "class" and place.column == "MIM"
            column = PGD_ON_SCORES if honest else place.column
            yield place, Place(3, place.model, column, place.value, view)
