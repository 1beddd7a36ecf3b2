"""Rates by their place in the paper's tables, ours and the paper's alike, and their differences."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ...paper import printed
from ...paper.columns import CE
from ...utils.stats import Rate

_LETTERS = {"CWL2": "c", "modified CWL2": "c", "L-BFGS": "c", "DeepFool": "m"}
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
        letter = _LETTERS.get(self.column, "eps")
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
