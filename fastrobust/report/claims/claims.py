"""What the paper concludes in its sections 4.2 and 5.1 to 5.5, and what a run says to each.

One rule, one sentence: the paper's number, ours where the attack looks at what the paper's looked
at, ours where it looks at the class scores, and which of both agrees. A difference counts where the
95% intervals lie apart. What is not measured is left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...paper import printed as paper
from ...paper.columns import ABLATION, CE, CODED, CODED_MODELS, FIGURE_1, HONEST, MSE
from ..results import Run
from . import comparisons
from .rates import Gap, Place, Rates, gaps, largest, measured, printed, smallest, spread, verdict

NAMES = {"cifar10": "CIFAR-10", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
PAPERS, CLASS = "the paper's view", "the class view"
VIEWS = ((PAPERS, "paper"), (CLASS, "class"))
Papers = Mapping[str, Rates]


@dataclass(frozen=True)
class Conclusion:
    """One conclusion of the paper beside ours: its section, and a sentence."""

    section: str
    sentence: str


def of(run: Run) -> list[Conclusion]:
    """Return the paper's conclusions that a run can speak to."""
    return draw(measured(run))


def draw(ours: Rates) -> list[Conclusion]:
    """Return the conclusions from rates by place."""
    papers = {name: printed(name) for name in paper.DATA_SETS}
    found = ((section, rule(ours, papers)) for section, rule in _RULES)
    return [Conclusion(section, sentence) for section, sentence in found if sentence]


Rule = Callable[[Rates, Papers], str | None]


def _compare(said: str, ask: comparisons.Ask, *, want: bool = True) -> Rule:
    """Return the rule for a claim on the largest gap: that it is there, or that it is not.

    Args:
        said: What the paper says, with {} for its number and where that is.
        ask: Returns the gaps that the claim is about.
        want: Whether the claim is that there is a clear gap.
    """

    def rule(ours: Rates, papers: Papers) -> str | None:
        here = {name: found for name, view in VIEWS if (found := largest(ask(ours, view)))}
        if not here:
            return None
        best = {name: found for name in papers if (found := largest(ask(papers[name], "paper")))}
        name = max(best, key=lambda name: best[name].value)
        number = f"{best[name].value:.1%} ({NAMES[name]}, {best[name].words})"
        texts = " and ".join(f"{gap.text} in {view}" for view, gap in here.items())
        agree = {view: gap.clear == want for view, gap in here.items()}
        return f"The paper: {said.format(number)}. Here: {texts}; {verdict(agree)}."

    return rule


def _withstood(ours: Rates, papers: Papers) -> str | None:
    """Count the transfers that leave no less than the white box."""
    theirs = [gap for name in papers for gap in comparisons.black_box(papers[name], "paper")]
    here = {
        name: found for name, view in VIEWS if (found := list(comparisons.black_box(ours, view)))
    }
    if not here:
        return None
    texts = " and ".join(f"{_count(found)} in {name}" for name, found in here.items())
    agree = {name: not any(g.reversed().clear for g in found) for name, found in here.items()}
    return (
        f"The paper: accuracy under transfer is no less than under the white box in "
        f"{_count(theirs)}. Here: {texts}; {verdict(agree)}."
    )


def _count(found: list[Gap]) -> str:
    held, most = sum(gap.value >= 0 for gap in found), max(gap.value for gap in found)
    return f"{held} of {len(found)} cells (more by up to {most:.1%})"


def _clean(ours: Rates, papers: Papers) -> str | None:
    """Compare the clean accuracies of the three classifiers."""
    places = [Place(4, model, paper.CLEAN, None) for model in (CE, MSE, CODED)]
    here = spread(ours, places)
    if here is None:
        return None
    most = max(gap.value for rates in papers.values() if (gap := spread(rates, places)))
    return (
        f"The paper: clean accuracies differ little, by {most:.1%} at most. Here: by "
        f"{here.value:.1%}; {'this disagrees' if here.clear else 'this agrees'}."
    )


def _lengths(ours: Rates, papers: Papers) -> str | None:
    """Compare the classifiers of four codeword lengths, clean and under every attack."""
    columns = dict.fromkeys(place[2:] for place in ours if place.table == ABLATION)
    spreads = [
        spread(ours, [Place(ABLATION, model, *column) for model in CODED_MODELS])
        for column in columns
    ]
    found = largest(gap for gap in spreads if gap)
    if found is None:
        return None
    return (
        "The paper: no significant discrepancies between codewords of 64, 128, 256 and 1024 "
        f"units. Here: they differ by up to {found.text}; "
        f"{'this disagrees' if any(gap and gap.clear for gap in spreads) else 'this agrees'}."
    )


def _figure_1(ours: Rates, papers: Papers) -> str | None:
    """Compare the smallest eps at which targeted Madry always succeeds."""
    found = {}
    for name, table, column, view in (
        (PAPERS, FIGURE_1, "Madry", "paper"),
        (CLASS, 5, HONEST, "class"),
    ):
        both = [smallest(ours, table, column, view, model=model) for model in (CE, CODED)]
        if both[0] and both[1]:
            found[name] = (both[0], both[1])
    if PAPERS not in found:
        return None
    texts = " and ".join(
        f"{_eps(*one)} and {_eps(*two)} in {name}" for name, (one, two) in found.items()
    )
    agree = {
        name: one[1] == 1 and (one[0] < two[0] or two[1] < 1) for name, (one, two) in found.items()
    }
    return (
        f"The paper: targeted Madry always succeeds from eps = 0.03 on for {CE}, from 0.35 on for "
        f"{CODED} (CIFAR-10). Here: {texts}; {verdict(agree)}."
    )


def _eps(eps: float, rate: float) -> str:
    return f"{eps:g}" if rate == 1 else f"not up to {eps:g} ({rate:.1%})"


def _figure_2(ours: Rates, papers: Papers) -> str | None:
    """Compare the two rows of Figure 2: targeted MIM at eps = 0.1."""

    def pair(rates: Rates, column: str, view: str) -> Gap | None:
        one, other = (Place(5, model, column, 0.1, view) for model in (CE, CODED))
        return largest(gaps(rates, [(one, other)]))

    theirs = pair(papers["mnist"], "MIM", "paper")
    asked = ((PAPERS, "MIM", "paper"), (CLASS, HONEST, "class"))
    here = {name: gap for name, *at in asked if (gap := pair(ours, *at))}
    if not here or not theirs:
        return None
    texts = " and ".join(f"{_both(gap)} in {name}" for name, gap in here.items())
    return (
        f"The paper: targeted MIM at eps = 0.1 reaches {_both(theirs)} (MNIST) on {CE} and {CODED}."
        f" Here: {texts}; {verdict({name: gap.clear for name, gap in here.items()})}."
    )


def _both(gap: Gap) -> str:
    return f"{gap.high.value:.1%} and {gap.low.value:.1%}"


_RULES: tuple[tuple[str, Rule], ...] = (
    ("4.2", _lengths),
    ("5.1", _clean),
    ("5.2", _compare(
        f"training on MSE raises accuracy over {CE}'s by up to {{}}", comparisons.untargeted
    )),
    ("5.2", _compare(
        f"it lowers targeted success from {CE}'s by up to {{}}", comparisons.targeted
    )),
    ("5.2", _compare(
        "the success of L-BFGS rises with c, from 0.01 to 10 by up to {}",
        comparisons.rise(5, "L-BFGS", (MSE, CODED), 0.01, 10),
    )),
    ("5.3", _withstood),
    ("5.4", _compare(
        "the modified CWL2 succeeds more often than CWL2, by up to {}", comparisons.gain
    )),
    ("5.4", _compare(f"on {CE} it loses no more than {{}} to CWL2", comparisons.loss, want=False)),
    ("5.4", _compare(
        "its success rises with c, from 0.1 to 1 by up to {}",
        comparisons.rise(7, "modified CWL2", (CODED,), 0.1, 1.0),
    )),
    ("5.4", _compare(
        f"{CODED} still falls less often than {CE}, by up to {{}}", comparisons.still_lower
    )),
    ("5.5", _figure_1),
    ("5.5", _figure_2),
)  # fmt: skip
