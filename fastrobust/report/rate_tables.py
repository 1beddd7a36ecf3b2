"""The tables of rates of a run."""

from collections import Counter
from collections.abc import Iterable

from ..attacks.base import from_repr
from ..evaluation.files import StoredEvaluation
from ..paper.columns import ABLATION, ASIDE, DEFENCES, FIGURE_1
from ..runs.plan import Cell
from .flags import Marks
from .results import Result, Run, robust_at, smallest_breaks
from .tables import VIEW_NAMES, Entry, Group, RateTable

TITLES = {
    3: ("Accuracy under untargeted attack", "Higher is better for the classifier."),
    4: ("Accuracy on clean images", "No attack."),
    5: ("Success rate of targeted attack", "Lower is better for the classifier."),
    6: (
        "Accuracy under transferred attack",
        "Images made on the source are classified by the victim; higher is better for the victim. "
        "Below each number: its accuracy under the same attack on itself, as in Table 3.",
    ),
    7: ("Success rate of the modified CWL2", "Targeted; lower is better for the classifier."),
    ABLATION: (
        "Codeword lengths",
        "The paper names them in section 4.2 and prints no numbers. Accuracy, or the success rate "
        "of targeted attacks.",
    ),
    DEFENCES: (
        "Comparison defences",
        "Baselines with the same training; higher is better for the classifier. O:LINEAR:MSE: "
        "squared error without a softmax. O:TANH:MSE: tanh units with one-hot targets, decoded to "
        "the nearest. O:SOFTMAX:CE:PGD: adversarial training (Madry et al. 2018, arXiv "
        "1706.06083). The last rows are the worst case over these attacks within eps, image by "
        "image.",
    ),
}


def rate_tables(run: Run, marks: Marks) -> list[RateTable]:
    """Return the plan's tables: clean accuracy first, the search and the worst case last."""
    numbers = sorted({cell.table for cell in run.plan.cells} - {FIGURE_1})
    numbers.sort(key=lambda n: n != 4)
    tables = [_paper_table(run, number, marks) for number in numbers]
    return [*tables, *filter(None, (_search(run, marks), _worst_case(run)))]


def _paper_table(run: Run, number: int, marks: Marks) -> RateTable:
    """Return one of the paper's tables; a number that is not measured is left empty."""
    title, caption = TITLES.get(number, ("", ""))
    cells = [cell for cell in run.plan.cells if cell.table == number]
    models, groups = _groups(run, cells, marks)
    caption += _targets_met(run, number)
    if number == DEFENCES:
        caption += _trained_under(run)
        groups += _worst(run.select(table=number, targeted=False), models, _eps_of(cells))
    if any(map(_stops_by_units, cells)):
        caption += _ABOUT_CLAIMS
    if number == 3 and run.evaluations:
        caption += _ABOUT_EVALUATIONS
        groups += _evaluated(run.evaluations, models)
    return RateTable(f"Table {number}. {title}", caption, models, groups, number == DEFENCES)


_ABOUT_CLAIMS = (
    " Claims: the share of images on which the attack's own test reports success; false: where it "
    "does and the decision is still the label."
)


_ABOUT_EVALUATIONS = (
    " The last columns are the robust accuracy by fastrobust evaluate on the same images: the "
    "worst case, image by image, over a suite of strong attacks. Quote those."
)


def _evaluated(
    evaluations: Iterable[StoredEvaluation], models: tuple[str, ...]
) -> tuple[Group, ...]:
    """Return the columns of evaluations, one group per budget."""
    by_budget: dict[str, dict[float, dict[str, Entry]]] = {}
    for stored in evaluations:
        notes = (f"fails: {', '.join(stored.failed)}",) if stored.failed else ()
        entry = Entry(stored.rate, stored.rate.value, notes=notes)
        by_budget.setdefault(stored.budget, {}).setdefault(stored.eps, {})[stored.model] = entry
    return tuple(
        Group(
            f"evaluate, {budget}",
            None,
            tuple(f"eps {eps:g}" for eps in sorted(by_eps)),
            {model: tuple(by_eps[eps].get(model) for eps in sorted(by_eps)) for model in models},
        )
        for budget, by_eps in by_budget.items()
    )


def _search(run: Run, marks: Marks) -> RateTable | None:
    """Return the rates at the eps that the search for Figure 1 visited, None before the first."""
    cells = [result.cell for result in run.select(table=FIGURE_1)]
    if not cells:
        return None
    models, groups = _groups(run, cells, marks)
    caption = (
        "A bisection looks for the smallest eps at which every image reaches its target. These are "
        "the values of eps that it visited."
    )
    return RateTable("Figure 1. Success rate of targeted attack", caption, models, groups)


def _groups(run: Run, cells: list[Cell], marks: Marks) -> tuple[tuple[str, ...], tuple[Group, ...]]:
    """Return the names of the rows of a table, and its columns by attack and protocol."""
    results = {result.cell: result for result in run.results}
    mixed = len({cell.targeted for cell in cells}) > 1
    by_attack: dict[tuple[str, str | None], list[Cell]] = {}
    for cell in cells:
        name = f"{cell.column}, targeted" if mixed and cell.targeted else cell.column
        view = VIEW_NAMES[cell.view] if cell.attack else None
        by_attack.setdefault((name, view), []).append(cell)

    def entry(cell: Cell | None) -> Entry | None:
        result = results.get(cell) if cell else None
        if result is None:
            return None
        notes = _notes(run, result)
        return Entry(result.rate, result.defended, result.paper, marks.get(result, ()), notes)

    def group(name: str, view: str | None, of_attack: list[Cell]) -> Group:
        columns = sorted({(c.parameter, c.value) for c in of_attack}, key=lambda c: c[1] or 0.0)
        at = {(cell.parameter, cell.value, cell.line): cell for cell in of_attack}
        attack = of_attack[0].attack
        letters = from_repr(attack).letters if attack else {}
        heads = tuple(f"{letters.get(p, p)} {v:g}" if p else "accuracy" for p, v in columns)
        entries = {line: tuple(entry(at.get((p, v, line))) for p, v in columns) for line in lines}
        return Group(name, view, heads, entries)

    lines = tuple(dict.fromkeys(cell.line for cell in cells))
    return lines, tuple(group(*key, of_attack) for key, of_attack in by_attack.items())


def _notes(run: Run, result: Result) -> tuple[str, ...]:
    """Return the notes of a number: what its attack claims, or the rate of the white-box attack."""
    if twin := run.twin(result):
        return (f"white box {twin.rate.value:.3f}",)
    if _stops_by_units(result.cell):
        false = (f"false {result.false_claims.value:.2f}",) if result.false_claims.hits else ()
        return (f"claims {result.claims.value:.2f}", *false)
    return ()


def _stops_by_units(cell: Cell) -> bool:
    """Return whether the attack stops by a success test of its own instead of the decision."""
    if cell.attack is None or cell.source is not None:
        return False
    return getattr(from_repr(cell.attack), "view", None) == "units"


def _targets_met(run: Run, number: int) -> str:
    """Return on how many images the clean decision is already the target."""
    met: dict[str, int] = {}
    for result in run.select(table=number, targeted=True):
        met[result.cell.model] = result.met
    words = ", ".join(f"{model} {count}" for model, count in met.items() if count)
    if not words:
        return ""
    return f" Images whose clean decision is already the target: {words}."


def _trained_under(run: Run) -> str:
    """Return which classifiers were trained adversarially, and with which attack."""
    configs = {name: facts.get("config", {}) for name, facts in run.facts["models"].items()}
    used = {name: config["attack"] for name, config in configs.items() if config.get("attack")}
    return "".join(f" {name} was trained on {attack}." for name, attack in used.items())


def _worst_case(run: Run) -> RateTable | None:
    """Return the worst-case accuracy over attacks at each eps."""
    by_eps = [result.cell for result in run.white_box(targeted=False, parameter="eps")]
    models = tuple(dict.fromkeys(cell.model for cell in by_eps))
    if not models:
        return None
    untargeted = (r for r in run.select(targeted=False) if r.cell.table not in ASIDE)
    groups = _worst(untargeted, models, _shared_eps(by_eps))
    caption = (
        "An image counts as broken if any untargeted attack, whatever its parameter, misclassified "
        "it within the Linf distance eps."
    )
    return RateTable("Worst case over attacks", caption, models, groups)


def _worst(
    results: Iterable[Result], models: tuple[str, ...], radii: list[float]
) -> tuple[Group, ...]:
    """Return the columns of the worst-case accuracy over attacks."""
    attacked = [result for result in results if result.cell.attack]
    papers = [result for result in attacked if result.cell.view == "paper"]
    heads = tuple(f"eps {eps:g}" for eps in radii)

    def entries(of_model: list[Result]) -> tuple[Entry | None, ...]:
        if not of_model:
            return (None,) * len(radii)
        breaks = smallest_breaks(of_model)
        rates = [robust_at(breaks, eps) for eps in radii]
        return tuple(Entry(rate, rate.value) for rate in rates)

    return tuple(
        Group(name, None, heads, {
            model: entries([r for r in shown if r.cell.model == model]) for model in models
        })
        for name, shown in (("the paper's attacks", papers), ("all attacks", attacked))
    )  # fmt: skip


def _eps_of(cells: Iterable[Cell]) -> list[float]:
    """Return the values of eps among some cells."""
    return sorted({cell.value for cell in cells if cell.parameter == "eps" and cell.value})


def _shared_eps(cells: Iterable[Cell]) -> list[float]:
    """Return the values of eps that more than one attack has, all of them if none has."""
    columns = {(cell.column, cell.value) for cell in cells if cell.value is not None}
    count = Counter(value for _, value in columns)
    return sorted(v for v in count if count[v] > 1) or sorted(count)
