"""Which rates the paper's conclusions compare, in its numbers and in ours alike.

A comparison takes rates and a protocol, and returns pairs of places. The first rate of a pair
should be the higher one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ...attacks.base import by_title
from ...paper import printed
from ...paper.columns import CE, CODED, MSE, PGD_ON_SCORES
from ...utils.stats import Rate

_PRINTED_TO = 1000  # the paper prints three decimals


class Place(NamedTuple):
    """A place in a table; a transfer is listed under its victim."""

    table: int
    model: str
    column: str
    value: float | None
    view: str = "paper"

    @property
    def words(self) -> str:
        """The attack at this place, its parameter by the paper's letter."""
        kind = by_title().get(self.column)
        letter = next(iter(kind.letters.values()), "eps") if kind else "eps"
        return self.column if self.value is None else f"{self.column}, {letter} = {self.value:g}"


Rates = Mapping[Place, Rate]


def printed_rates(data_set: str) -> dict[Place, Rate]:
    """Return every rate that the paper prints for one of its data sets."""
    return {
        Place(table, model, column, value): Rate(round(rate * _PRINTED_TO), _PRINTED_TO)
        for table, model, column, value, rate in printed.numbers(data_set)
    }


@dataclass(frozen=True)
class Conclusion:
    """One conclusion of the paper beside ours: its section, and a sentence."""

    section: str
    sentence: str


@dataclass(frozen=True)
class Difference:
    """The difference of two rates, the first less the second.

    Attributes:
        high: The rate that should be the higher one.
        low: The other.
        words: Where they are.
    """

    high: Rate
    low: Rate
    words: str

    @property
    def value(self) -> float:
        """The difference itself."""
        return self.high.value - self.low.value

    @property
    def clear(self) -> bool:
        """Whether the intervals do not overlap, the first above."""
        return self.high.interval[0] > self.low.interval[1]

    @property
    def text(self) -> str:
        """The difference and where it is."""
        return f"{self.value:.1%} ({self.words})"


Pairs = Iterable[tuple[Place, Place]]


def differences(rates: Rates, pairs: Pairs) -> list[Difference]:
    """Return the differences between each place and the one that should be lower, if measured."""
    measured = [(high, low) for high, low in pairs if high in rates and low in rates]
    shown = [low if high.model == CE else high for high, low in measured]
    return [
        Difference(rates[high], rates[low], f"{place.model}, {place.words}")
        for (high, low), place in zip(measured, shown, strict=True)
    ]


def largest(found: Iterable[Difference]) -> Difference | None:
    """Return the largest difference, None without any."""
    return max(found, key=lambda difference: difference.value, default=None)


def spread(rates: Rates, places: Iterable[Place]) -> Difference | None:
    """Return the difference between the best and the worst place, None below two of them."""
    ranked = sorted((rates[place].value, place) for place in places if place in rates)
    if len(ranked) < 2:
        return None
    (_, worst), (_, best) = ranked[0], ranked[-1]
    return Difference(rates[best], rates[worst], best.words)


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
            on_scores = view == "class" and place.column == "MIM"
            column = PGD_ON_SCORES if on_scores else place.column
            yield place, Place(3, place.model, column, place.value, view)
