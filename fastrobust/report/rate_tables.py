"""Which tables of rates a run has, and what stands where in them."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from .. import attacks
from ..evaluation.files import Verdict
from ..paper.columns import ABLATION, ASIDE, DEFENCES, FIGURE_1
from ..runs.plan import VIEWS, Cell
from .flags import Marks
from .results import Result, Run, robust_at, smallest_breaks
from .tables import LETTERS, VIEW_NAMES, Entry, Group, RateTable

TITLES = {
    3: ("Accuracy under untargeted attack", "Higher is better for the classifier."),
    4: ("Accuracy on clean images", "No attack."),
    5: ("Success rate of targeted attack", "Lower is better for the classifier."),
    6: (
        "Accuracy under transferred attack",
        "Images made against the source are judged by the victim; higher is better for the "
        "victim. Below: its accuracy where the same attack is made against itself, as in Table 3.",
    ),
    7: (
        "Success rate of the modified CWL2",
        "Targeted; lower is better for the classifier.",
    ),
    ABLATION: (
        "Codeword lengths",
        "The paper names them in section 4.2 and prints no numbers. Accuracy, under targeted "
        "attack its success rate.",
    ),
    DEFENCES: (
        "Comparison defences",
        "What the same training makes of other ideas; higher is better for the classifier. "
        "O:LINEAR:MSE: squared error without a softmax. O:TANH:MSE: tanh units beside one-hot "
        "targets, the nearest of which decides. O:SOFTMAX:CE:PGD: adversarial training (Madry et "
        "al. 2018, arXiv 1706.06083). Below: what is left once every image has met the worst of "
        "these attacks within eps.",
    ),
}


def rate_tables(run: Run, marks: Marks) -> list[RateTable]:
    """Return the plan's tables: clean accuracy first, the search and the worst case last."""
    numbers = sorted({cell.table for cell in run.plan.cells} - {FIGURE_1})
    numbers.sort(key=lambda n: n != 4)
    tables = [_paper_table(run, number, marks) for number in numbers]
    return [*tables, *filter(None, (_search(run, marks), _worst_case(run)))]


def _paper_table(run: Run, number: int, marks: Marks) -> RateTable:
    """Lay out one of the paper's tables, with a gap where a cell is missing."""
    title, caption = TITLES.get(number, ("", ""))
    cells = [cell for cell in run.plan.cells if cell.table == number]
    models, groups = _groups(run, cells, marks)
    caption += _targets_met(run, number)
    if number == DEFENCES:
        caption += _trained_under(run)
        groups += _worst(run.select(table=number, targeted=False), models, _eps_of(cells))
    if any(map(_stops_by_units, cells)):
        caption += _ABOUT_CLAIMS
    if number == 3 and run.verdicts:
        caption += _ABOUT_VERDICTS
        groups += _honest(run.verdicts, models)
    return RateTable(f"Table {number}. {title}", caption, models, groups, number == DEFENCES)


_ABOUT_CLAIMS = (
    " Claims: the share of images on which the attack believes by its own test that it succeeded; "
    "false: where it does and the decision says otherwise."
)


_ABOUT_VERDICTS = (
    " The last columns are what fastrobust evaluate leaves, on the same images: the worst case, "
    "image by image, over the strongest attacks there are. Quote those."
)


def _honest(verdicts: Iterable[Verdict], models: tuple[str, ...]) -> tuple[Group, ...]:
    """Return the columns of what evaluations leave, one group per budget."""
    found: dict[str, dict[float, dict[str, Entry]]] = {}
    for one in verdicts:
        notes = (f"fails: {', '.join(one.failed)}",) if one.failed else ()
        entry = Entry(one.rate, one.rate.value, notes=notes)
        found.setdefault(one.budget, {}).setdefault(one.eps, {})[one.model] = entry
    return tuple(
        Group(
            f"evaluate, {budget}",
            None,
            tuple(f"eps {eps:g}" for eps in sorted(by_eps)),
            {model: tuple(by_eps[eps].get(model) for eps in sorted(by_eps)) for model in models},
        )
        for budget, by_eps in found.items()
    )


def _search(run: Run, marks: Marks) -> RateTable | None:
    """Return the values that the search for Figure 1 visited, None before the first."""
    cells = [result.cell for result in run.select(table=FIGURE_1)]
    if not cells:
        return None
    models, groups = _groups(run, cells, marks)
    caption = (
        "A bisection looks for the smallest eps at which every image reaches its target; what is "
        "measured of its grid."
    )
    return RateTable("Figure 1. Success rate of targeted attack", caption, models, groups)


def _groups(run: Run, cells: list[Cell], marks: Marks) -> tuple[tuple[str, ...], tuple[Group, ...]]:
    """Return the names of the lines of a table, and its columns by attack and view."""
    results = {result.cell: result for result in run.results}
    mixed = len({cell.targeted for cell in cells}) > 1
    found: dict[tuple[str, str | None], list[Cell]] = {}
    for cell in cells:
        name = f"{cell.column}, targeted" if mixed and cell.targeted else cell.column
        view = VIEW_NAMES[cell.view] if cell.attack else None
        found.setdefault((name, view), []).append(cell)

    def entry(cell: Cell | None) -> Entry | None:
        result = results.get(cell) if cell else None
        if result is None:
            return None
        notes = _notes(run, result)
        return Entry(result.rate, result.defended, result.paper, marks.get(result, ()), notes)

    def group(name: str, view: str | None, own: list[Cell]) -> Group:
        columns = sorted({(cell.parameter, cell.value) for cell in own}, key=lambda c: c[1] or 0.0)
        at = {(cell.parameter, cell.value, cell.line): cell for cell in own}
        heads = tuple(f"{LETTERS.get(p, p)} {v:g}" if p else "accuracy" for p, v in columns)
        entries = {line: tuple(entry(at.get((p, v, line))) for p, v in columns) for line in lines}
        return Group(name, view, heads, entries)

    lines = tuple(dict.fromkeys(cell.line for cell in cells))
    return lines, tuple(group(name, view, own) for (name, view), own in found.items())


def _notes(run: Run, result: Result) -> tuple[str, ...]:
    """Return what stands below a number: what its attack claims, a transfer's white-box twin."""
    if twin := run.twin(result):
        return (f"white box {twin.rate.value:.3f}",)
    if _stops_by_units(result.cell):
        false = (f"false {result.false_claims.value:.2f}",) if result.false_claims.hits else ()
        return (f"claims {result.claims.value:.2f}", *false)
    return ()


def _stops_by_units(cell: Cell) -> bool:
    """Say whether an attack's belief of itself decides what it returns, and is not the decision."""
    if cell.attack is None or cell.source is not None:
        return False
    return getattr(attacks.from_repr(cell.attack), "view", None) == "units"


def _targets_met(run: Run, number: int) -> str:
    """Say on how many images the target is what the classifier decides without any attack."""
    met: dict[str, int] = {}
    for result in run.select(table=number, targeted=True):
        met[result.cell.model] = result.met
    words = ", ".join(f"{model} {count}" for model, count in met.items() if count)
    if not words:
        return ""
    return f" Successes without any attack, since the clean decision is the target: {words}."


def _trained_under(run: Run) -> str:
    """Say which classifiers were trained on images under an attack, and under which."""
    configs = {name: facts.get("config", {}) for name, facts in run.facts["models"].items()}
    under = {name: found["attack"] for name, found in configs.items() if found.get("attack")}
    return "".join(f" {name} was trained on {attack}." for name, attack in under.items())


def _worst_case(run: Run) -> RateTable | None:
    """Return the accuracy left when every image meets its worst attack, per eps budget."""
    by_eps = [result.cell for result in run.white_box(targeted=False, parameter="eps")]
    models = tuple(dict.fromkeys(cell.model for cell in by_eps))
    if not models:
        return None
    untargeted = (r for r in run.select(targeted=False) if r.cell.table not in ASIDE)
    groups = _worst(untargeted, models, _shared_budgets(by_eps))
    caption = (
        "Accuracy left when an image counts as lost as soon as any untargeted attack, of whatever "
        "budget, has moved it off its true label within the Linf distance eps."
    )
    return RateTable("Worst case over attacks", caption, models, groups)


def _worst(
    results: Iterable[Result], models: tuple[str, ...], budgets: list[float]
) -> tuple[Group, ...]:
    """Return the columns of the accuracy left when every image meets its worst attack."""
    under = [result for result in results if result.cell.attack]
    groups = []
    for name, views in (("the paper's attacks", VIEWS[:1]), ("all attacks", VIEWS)):
        entries = {}
        for model in models:
            found = [r for r in under if r.cell.model == model and r.cell.view in views]
            radius = smallest_breaks(found) if found else None
            entries[model] = tuple(None if radius is None else _left(radius, e) for e in budgets)
        groups.append(Group(name, None, tuple(f"eps {eps:g}" for eps in budgets), entries))
    return tuple(groups)


def _left(radius: np.ndarray, eps: float) -> Entry:
    rate = robust_at(radius, eps)
    return Entry(rate, rate.value)


def _eps_of(cells: Iterable[Cell]) -> list[float]:
    """Return the values of eps among some cells."""
    return sorted({cell.value for cell in cells if cell.parameter == "eps" and cell.value})


def _shared_budgets(cells: Iterable[Cell]) -> list[float]:
    """Return the values of eps that more than one attack has, all of them if none has."""
    columns = {(cell.column, cell.value) for cell in cells if cell.value is not None}
    count = Counter(value for _, value in columns)
    return sorted(v for v in count if count[v] > 1) or sorted(count)
