"""Rates by their place in the tables, ours and the paper's alike, and what lies between two rates.

``conclusions`` asks both the same questions, so that a sentence compares like with like.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ...paper import printed as paper
from ...paper.columns import CE, FIGURE_1
from ...runs import bisection
from ...utils.stats import Rate
from ..results import Run


class Place(NamedTuple):
    """Where a rate stands: as in a cell; a transfer stands under its victim."""

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

_LETTERS = {"CWL2": "c", "modified CWL2": "c", "L-BFGS": "c", "DeepFool": "m"}
_PRINTED_TO = 1000  # the paper prints three decimals


def measured(run: Run) -> dict[Place, Rate]:
    """Return every rate of a run; the probes of a search only once it has ended."""
    found: dict[Place, Rate] = {}
    for result in run.results:
        cell = result.cell
        place = Place(cell.table, cell.model, cell.column, cell.value, cell.view)
        found.setdefault(place, result.rate)
    grids: dict[str, list[float]] = {}
    for cell in run.plan.cells:
        if cell.probe and cell.table == FIGURE_1:
            grids.setdefault(cell.model, []).append(cell.value or 0.0)
    for model, grid in grids.items():
        own = {p: r for p, r in found.items() if p.table == FIGURE_1 and p.model == model}
        known = {place.value or 0.0: rate.value for place, rate in own.items()}
        if bisection.next_probe(grid, known) is not None:
            found = {place: rate for place, rate in found.items() if place not in own}
    return found


def printed(data_set: str) -> dict[Place, Rate]:
    """Return every rate that the paper prints for one of its data sets."""
    return {
        Place(table, model, column, value): Rate(round(result * _PRINTED_TO), _PRINTED_TO)
        for table, model, column, value, result in paper.numbers(data_set)
    }


@dataclass(frozen=True)
class Gap:
    """The difference of two rates, the first less the second.

    Attributes:
        high: The rate that should be the higher one.
        low: The other.
        words: Where that is.
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
        """Whether the intervals of both lie apart, the first above."""
        return self.high.interval[0] > self.low.interval[1]

    @property
    def text(self) -> str:
        """The difference and where it is."""
        return f"{self.value:.1%} ({self.words})"

    def reversed(self) -> "Gap":
        """Return the same the other way round."""
        return Gap(self.low, self.high, self.words)


def gaps(rates: Rates, pairs: Iterable[tuple[Place, Place]]) -> Iterator[Gap]:
    """Yield what lies between each place and the one that should be lower, where both are there."""
    for high, low in pairs:
        if high in rates and low in rates:
            place = low if high.model == CE else high
            yield Gap(rates[high], rates[low], f"{place.model}, {place.words}")


def largest(found: Iterable[Gap]) -> Gap | None:
    """Return the largest gap, None without any."""
    return max(found, key=lambda gap: gap.value, default=None)


def spread(rates: Rates, places: Iterable[Place]) -> Gap | None:
    """Return the gap between the best and the worst of some places, None below two of them."""
    found = sorted((rates[p].value, p) for p in places if p in rates)
    if len(found) < 2:
        return None
    (_, worst), (_, best) = found[0], found[-1]
    return Gap(rates[best], rates[worst], best.words)


def smallest(
    rates: Rates, table: int, column: str, view: str, *, model: str
) -> tuple[float, float] | None:
    """Return the smallest value that always succeeds, else the largest; with the rate there."""
    known = {
        place.value or 0.0: rate.value
        for place, rate in rates.items()
        if (place.table, place.column, place.view, place.model) == (table, column, view, model)
    }
    value = bisection.outcome(known, known)
    return None if value is None else (value, known[value])


def verdict(agree: Mapping[str, bool]) -> str:
    """Say which views agree with the paper.

    >>> from fastrobust import evidence
    >>> evidence.verdict({"the paper's view": True, "the class view": False})
    "the paper's view agrees, the class view does not"
    """
    yes = [view for view, agrees in agree.items() if agrees]
    no = [view for view, agrees in agree.items() if not agrees]
    if len(yes) > 1:
        return "both views agree"
    if len(no) > 1:
        return "neither view agrees"
    parts = [f"{view} agrees" for view in yes]
    return ", ".join(parts + [f"{view} does not" + ("" if yes else " agree") for view in no])
