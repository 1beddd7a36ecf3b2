"""The differences that the paper's conclusions are about: asked of its numbers and of ours alike.

A question takes rates by place and a view, and yields every gap of its kind that is there.
"""

from collections.abc import Callable, Iterable

from ...paper.columns import CE, CODED, HONEST, MSE
from .rates import Gap, Place, Rates, gaps, printed

Ask = Callable[[Rates, str], Iterable[Gap]]


def _columns(rates: Rates, table: int, view: str) -> list[tuple[str, float | None]]:
    """Return the columns of a table in one view; of the paper's view those that it printed."""
    names = {place.column for place in printed("mnist") if place.table == table}
    return list(dict.fromkeys(
        (place.column, place.value)
        for place in rates
        if (place.table, place.view) == (table, view) and (view == "class" or place.column in names)
    ))  # fmt: skip


def untargeted(rates: Rates, view: str) -> Iterable[Gap]:
    """Ask how far accuracies under untargeted attack are above O:SOFTMAX:CE's."""
    return gaps(rates, (
        (Place(3, model, *at, view), Place(3, CE, *at, view))
        for at in _columns(rates, 3, view)
        for model in (MSE, CODED)
    ))  # fmt: skip


def targeted(rates: Rates, view: str) -> Iterable[Gap]:
    """Ask how far targeted success is below that on O:SOFTMAX:CE."""
    return gaps(rates, (
        (Place(5, CE, *at, view), Place(5, model, *at, view))
        for at in _columns(rates, 5, view)
        for model in (MSE, CODED)
    ))  # fmt: skip


def gain(rates: Rates, view: str) -> Iterable[Gap]:
    """Ask how far the modified attack is above CWL2, which looks at units or at class scores."""
    tailored = Place(7, CODED, "modified CWL2", 0.1)
    return gaps(rates, [(tailored, Place(7, CODED, "CWL2", 0.1, view))])


def loss(rates: Rates, view: str) -> Iterable[Gap]:
    """Ask how far the modified attack falls below CWL2 on the conventional classifier."""
    return gaps(rates, (
        (Place(7, CE, "CWL2", c, view), Place(7, CE, "modified CWL2", c)) for c in (0.1, 1.0)
    ))  # fmt: skip


def rise(table: int, column: str, models: tuple[str, ...], low: float, high: float) -> Ask:
    """Return the question how far success rises from one constant c to another."""

    def ask(rates: Rates, view: str) -> Iterable[Gap]:
        return gaps(rates, (
            (Place(table, model, column, high, view), Place(table, model, column, low, view))
            for model in models
        ))  # fmt: skip

    return ask


def still_lower(rates: Rates, view: str) -> Iterable[Gap]:
    """Ask how far success on R:TANH:MSE is below that on O:SOFTMAX:CE under the better attack."""
    column = "modified CWL2" if view == "paper" else "CWL2"
    return gaps(rates, (
        (Place(7, CE, column, c, view), Place(7, CODED, column, c, view)) for c in (0.1, 1.0)
    ))  # fmt: skip


def black_box(rates: Rates, view: str) -> Iterable[Gap]:
    """Ask how far a transfer leaves more than the attack on the victim, or its honest neighbour."""
    for place in rates:
        if place.table == 6:
            honest = view == "class" and place.column == "MIM"
            column = HONEST if honest else place.column
            yield from gaps(rates, [(place, Place(3, place.model, column, place.value, view))])
