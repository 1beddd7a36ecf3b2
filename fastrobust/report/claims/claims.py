"""What the paper concludes in its sections 4.2 and 5.1 to 5.5, and whether a run agrees.

One claim, one sentence: the paper's number, ours under the paper's protocol, ours under attack on
class scores, and which of both agrees. A difference counts where the 95% intervals do not overlap.
What is not measured is left out.
"""

from collections.abc import Callable, Mapping
from functools import partial

from ...paper import printed
from ...paper.columns import ABLATION, CE, CODED, CODED_MODELS, FIGURE_1, MSE, PGD_ON_SCORES
from ...runs import bisection
from ..results import Run
from . import comparisons
from .comparisons import (
    Comparison,
    Conclusion,
    Difference,
    Place,
    Rate,
    Rates,
    differences,
    largest,
    printed_rates,
    spread,
)

NAMES = {"cifar10": "CIFAR-10", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
PROTOCOLS = {"paper": "the paper's protocol", "class": "the attack on class scores"}
Papers = Mapping[str, Rates]  # by data set


def of_run(run: Run) -> list[Conclusion]:
    """Return the paper's conclusions that a run can speak to."""
    return draw(measured_rates(run))


def draw(ours: Rates) -> list[Conclusion]:
    """Return the conclusions from rates by place."""
    papers = {name: printed_rates(name) for name in printed.DATA_SETS}
    sentences = ((section, claim(ours, papers)) for section, claim in _CLAIMS)
    return [Conclusion(section, sentence) for section, sentence in sentences if sentence]


def measured_rates(run: Run) -> dict[Place, Rate]:
    """Return every rate of a run; the probes of a search only once it has ended."""
    rates: dict[Place, Rate] = {}
    for result in run.results:
        cell = result.cell
        place = Place(cell.table, cell.model, cell.column, cell.value, cell.view)
        rates.setdefault(place, result.rate)
    grids: dict[str, list[float]] = {}
    for cell in run.plan.cells:
        if cell.probe and cell.table == FIGURE_1:
            grids.setdefault(cell.model, []).append(cell.value or 0.0)
    for model, grid in grids.items():
        probes = [p for p in rates if p.table == FIGURE_1 and p.model == model]
        known = {place.value or 0.0: rates[place].value for place in probes}
        if bisection.next_probe(grid, known) is not None:
            rates = {place: rate for place, rate in rates.items() if place not in probes}
    return rates


def agreement(agree: Mapping[str, bool]) -> str:
    """Return which protocols agree with the paper.

    >>> agreement({"paper": True, "class": False}), agreement({"paper": True})
    ("only the paper's protocol agrees", 'this agrees')
    """
    if len(agree) == 1:
        return "this agrees" if all(agree.values()) else "this disagrees"
    if all(agree.values()) or not any(agree.values()):
        return "both agree" if all(agree.values()) else "neither agrees"
    return f"only {next(PROTOCOLS[view] for view, agrees in agree.items() if agrees)} agrees"


def _compare(
    ours: Rates, papers: Papers, claim: str, comparison: Comparison, clear: bool = True
) -> str | None:
    """Return the sentence on the largest difference of a comparison.

    Args:
        ours: Our rates.
        papers: The paper's.
        claim: What the paper claims, with {} for its number and where that is.
        comparison: The rates that it compares.
        clear: Whether the claim is that there is a clear difference, or that there is none.
    """

    def most(rates: Rates, view: str) -> Difference | None:
        return largest(differences(rates, comparison(rates, view)))

    here = {view: difference for view in PROTOCOLS if (difference := most(ours, view))}
    if not here:
        return None
    best = {name: difference for name in papers if (difference := most(papers[name], "paper"))}
    name = max(best, key=lambda name: best[name].value)
    number = f"{best[name].value:.1%} ({NAMES[name]}, {best[name].words})"
    texts = {view: difference.text for view, difference in here.items()}
    agree = {view: difference.clear == clear for view, difference in here.items()}
    return f"The paper: {claim.format(number)}. {_here(texts, agree)}"


def _here(texts: Mapping[str, str], agree: Mapping[str, bool]) -> str:
    words = " and ".join(f"{text} under {PROTOCOLS[view]}" for view, text in texts.items())
    return f"Here: {words}; {agreement(agree)}."


def _transfers(ours: Rates, papers: Papers) -> str | None:
    """Count the transfers that leave no less than the white box."""

    def found(rates: Rates, view: str) -> list[Difference]:
        return differences(rates, comparisons.black_box(rates, view))

    def count(cells: list[Difference]) -> str:
        held = sum(cell.value >= 0 for cell in cells)
        most = max(cell.value for cell in cells)
        return f"{held} of {len(cells)} cells (more by up to {most:.1%})"

    here = {view: cells for view in PROTOCOLS if (cells := found(ours, view))}
    if not here:
        return None
    theirs = [cell for rates in papers.values() for cell in found(rates, "paper")]
    texts = {view: count(cells) for view, cells in here.items()}
    agree = {
        view: not any(Difference(cell.low, cell.high, "").clear for cell in cells)
        for view, cells in here.items()
    }
    return (
        "The paper: accuracy under transfer is no less than under the white box in "
        f"{count(theirs)}. {_here(texts, agree)}"
    )


def _clean(ours: Rates, papers: Papers) -> str | None:
    """Compare the clean accuracies of the three classifiers."""
    places = [Place(4, model, printed.CLEAN, None) for model in (CE, MSE, CODED)]
    here = spread(ours, places)
    if here is None:
        return None
    most = max(theirs.value for rates in papers.values() if (theirs := spread(rates, places)))
    return (
        f"The paper: clean accuracies differ little, by {most:.1%} at most. Here: by "
        f"{here.value:.1%}; {agreement({'paper': not here.clear})}."
    )


def _lengths(ours: Rates, papers: Papers) -> str | None:
    """Compare the classifiers of four codeword lengths, clean and under every attack."""
    columns = dict.fromkeys(place[2:] for place in ours if place.table == ABLATION)
    spreads = [
        spread(ours, [Place(ABLATION, model, *column) for model in CODED_MODELS])
        for column in columns
    ]
    here = largest(difference for difference in spreads if difference)
    if here is None:
        return None
    clear = any(difference and difference.clear for difference in spreads)
    return (
        "The paper: no significant discrepancies between codewords of 64, 128, 256 and 1024 "
        f"units. Here: they differ by up to {here.text}; {agreement({'paper': not clear})}."
    )


def _figure_1(ours: Rates, papers: Papers) -> str | None:
    """Compare the smallest eps at which targeted Madry always succeeds."""

    def smallest(table: int, column: str, view: str, model: str) -> tuple[float, float] | None:
        known = {
            place.value or 0.0: rate.value
            for place, rate in ours.items()
            if (place.table, place.column, place.view, place.model) == (table, column, view, model)
        }
        eps = bisection.outcome(known, known)
        return None if eps is None else (eps, known[eps])

    def words(eps: float, rate: float) -> str:
        return f"{eps:g}" if rate == 1 else f"not up to {eps:g} ({rate:.1%})"

    texts, agree = {}, {}
    for view, table, column in (("paper", FIGURE_1, "Madry"), ("class", 5, PGD_ON_SCORES)):
        one, other = (smallest(table, column, view, model) for model in (CE, CODED))
        if one and other:
            texts[view] = f"{words(*one)} and {words(*other)}"
            agree[view] = one[1] == 1 and (one[0] < other[0] or other[1] < 1)
    if "paper" not in texts:
        return None
    return (
        f"The paper: targeted Madry always succeeds from eps = 0.03 on for {CE}, from 0.35 on for "
        f"{CODED} (CIFAR-10). {_here(texts, agree)}"
    )


def _figure_2(ours: Rates, papers: Papers) -> str | None:
    """Compare the two rows of Figure 2: targeted MIM at eps = 0.1."""

    def pair(rates: Rates, column: str, view: str) -> Difference | None:
        one, other = (Place(5, model, column, 0.1, view) for model in (CE, CODED))
        return largest(differences(rates, [(one, other)]))

    def both(difference: Difference) -> str:
        return f"{difference.high.value:.1%} and {difference.low.value:.1%}"

    columns = {"paper": "MIM", "class": PGD_ON_SCORES}
    here = {view: found for view, name in columns.items() if (found := pair(ours, name, view))}
    theirs = pair(papers["mnist"], "MIM", "paper")
    if not here or not theirs:
        return None
    texts = {view: both(difference) for view, difference in here.items()}
    agree = {view: difference.clear for view, difference in here.items()}
    return (
        f"The paper: targeted MIM at eps = 0.1 reaches {both(theirs)} (MNIST) on {CE} and {CODED}. "
        f"{_here(texts, agree)}"
    )


def _claim(claim: str, comparison: Comparison, *, clear: bool = True) -> "Claim":
    return partial(_compare, claim=claim, comparison=comparison, clear=clear)


Claim = Callable[[Rates, Papers], str | None]
_CLAIMS: tuple[tuple[str, Claim], ...] = (
    ("4.2", _lengths),
    ("5.1", _clean),
    ("5.2", _claim(
        f"training on MSE raises accuracy over {CE}'s by up to {{}}", comparisons.untargeted
    )),
    ("5.2", _claim(
        f"it lowers targeted success from {CE}'s by up to {{}}", comparisons.targeted
    )),
    ("5.2", _claim(
        "the success of L-BFGS rises with c, from 0.01 to 10 by up to {}",
        comparisons.rise(5, "L-BFGS", (MSE, CODED), 0.01, 10),
    )),
    ("5.3", _transfers),
    ("5.4", _claim(
        "the modified CWL2 succeeds more often than CWL2, by up to {}", comparisons.gain
    )),
    ("5.4", _claim(f"on {CE} it loses no more than {{}} to CWL2", comparisons.loss, clear=False)),
    ("5.4", _claim(
        "its success rises with c, from 0.1 to 1 by up to {}",
        comparisons.rise(7, "modified CWL2", (CODED,), 0.1, 1.0),
    )),
    ("5.4", _claim(
        f"{CODED} still falls less often than {CE}, by up to {{}}", comparisons.still_lower
    )),
    ("5.5", _figure_1),
    ("5.5", _figure_2),
)  # fmt: skip
