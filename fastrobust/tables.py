"""Lays results out as tables: the paper's as it prints them, and plain ones of text.

Every table ends as a `TextTable`, which the terminal and Markdown print as it is; the page draws
the tables of the paper from the richer `PaperTable`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from . import attacks
from .marks import LEGEND, Mark
from .plans import VIEWS
from .results import Rate, Result, Run, robust_at, smallest_breaks

GROUPS_PER_BLOCK = 3  # groups of columns side by side, as in the paper

TITLES = {
    3: ("Accuracy under untargeted attack", "Higher is better for the classifier."),
    4: ("Accuracy on clean images", "No attack."),
    5: ("Success rate of targeted attack", "Lower is better for the classifier."),
}
VIEW_NAMES = {"paper": "paper's view", "class": "class view"}


@dataclass(frozen=True)
class TextTable:
    """A table of strings."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Group:
    """One attack's columns side by side: a value of its parameter each."""

    name: str
    view: str
    parameter: str | None
    values: tuple[float | None, ...]

    @property
    def heads(self) -> tuple[str, ...]:
        """The text above each column."""
        if self.parameter is None:
            return ("accuracy",)
        return tuple(f"{self.parameter} {value:g}" for value in self.values)


@dataclass(frozen=True)
class Entry:
    """One number of a table with what belongs beside it."""

    result: Result
    marks: tuple[Mark, ...]

    @property
    def text(self) -> str:
        """Rate, interval, the paper's value, signs of the marks."""
        words = [rate_text(self.result.rate)]
        if self.result.paper is not None:
            words.append(f"(paper {self.result.paper:.3f})")
        words += [mark.sign for mark in self.marks]
        return " ".join(words)


@dataclass(frozen=True)
class Block:
    """Some groups of columns with the row of every classifier below them."""

    groups: tuple[Group, ...]
    rows: tuple[tuple[str, tuple[Entry | None, ...]], ...]


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables with our numbers in it."""

    number: int
    title: str
    caption: str
    blocks: tuple[Block, ...]

    def as_text(self) -> Iterator[TextTable]:
        """Yield one table of text per block."""
        for block in self.blocks:
            heads = (f"{group.name}, {head}" for group in block.groups for head in group.heads)
            rows = (
                (model, *(entry.text if entry else "-" for entry in entries))
                for model, entries in block.rows
            )
            title = f"Table {self.number}. {self.title}"
            yield TextTable(title, self.caption, ("model", *heads), tuple(rows))


def rate_text(rate: Rate) -> str:
    """Return a rate with its interval.

    >>> from fastrobust.results import Rate
    >>> from fastrobust.tables import rate_text
    >>> rate_text(Rate(86, 200))
    '0.430 [0.363, 0.499]'
    """
    low, high = rate.interval
    return f"{rate.value:.3f} [{low:.3f}, {high:.3f}]"


def paper_tables(run: Run, marks: dict[Result, tuple[Mark, ...]]) -> list[PaperTable]:
    """Return the plan's tables, clean accuracy first, with a gap where a cell is missing."""
    numbers = sorted({cell.table for cell in run.plan.cells}, key=lambda n: (n != 4, n))
    return [_paper_table(run, number, marks) for number in numbers]


def _paper_table(run: Run, number: int, marks: dict[Result, tuple[Mark, ...]]) -> PaperTable:
    results = {result.cell: result for result in run.results}
    cells = {
        (cell.column, cell.view, cell.value, cell.model): cell
        for cell in run.plan.cells
        if cell.table == number
    }
    models = tuple(dict.fromkeys(cell.model for cell in cells.values()))

    def entry(group: Group, value: float | None, model: str) -> Entry | None:
        cell = cells.get((group.name, group.view, value, model))
        result = results.get(cell) if cell else None
        return Entry(result, marks.get(result, ())) if result else None

    def block(groups: tuple[Group, ...]) -> Block:
        places = [(group, value) for group in groups for value in group.values]
        rows = ((m, tuple(entry(group, value, m) for group, value in places)) for m in models)
        return Block(groups, tuple(rows))

    groups = _groups(list(cells.values()))
    starts = range(0, len(groups), GROUPS_PER_BLOCK)
    blocks = tuple(block(groups[start : start + GROUPS_PER_BLOCK]) for start in starts)
    title, caption = TITLES.get(number, ("", ""))
    return PaperTable(number, title, caption, blocks)


def _groups(cells: list) -> tuple[Group, ...]:
    """Return the groups of columns in the order of their first cells."""
    values: dict[tuple, dict] = {}
    for cell in cells:
        values.setdefault((cell.column, cell.view, cell.parameter), {})[cell.value] = None
    return tuple(
        Group(name, view, parameter, tuple(found))
        for (name, view, parameter), found in values.items()
    )


def worst_case(run: Run) -> TextTable | None:
    """Return the accuracy left when every image meets its worst attack, per eps budget."""
    untargeted = list(run.select(targeted=False, parameter="eps"))
    budgets = sorted({result.cell.value for result in untargeted})
    rows = []
    for model in run.plan.models:
        for view, views in (("paper's attacks", VIEWS[:1]), ("all attacks", VIEWS)):
            found = [r for r in untargeted if r.cell.model == model and r.cell.view in views]
            if found:
                radius = smallest_breaks(found)
                rates = (rate_text(robust_at(radius, eps)) for eps in budgets)
                rows.append((model, view, *rates))
    if not rows:
        return None
    return TextTable(
        "Worst case over attacks",
        "Accuracy left at each budget when every image counts as lost as soon as any untargeted "
        "attack moved it off its true label within that Linf distance.",
        ("model", "attacks", *(f"eps {eps:g}" for eps in budgets)),
        tuple(rows),
    )


def attack_tables(run: Run) -> list[TextTable]:
    """Return Tables 1 and 2: what varies and what is held constant, read off the attacks."""
    varied: dict[tuple[str, str], str] = {}
    constants: dict[tuple[str, str], str] = {}
    for cell in run.plan.cells:
        if cell.attack is None:
            continue
        attack = attacks.from_repr(cell.attack)
        name = (cell.column, VIEW_NAMES[cell.view])
        varied[name] = str(cell.parameter)
        constants[name] = ", ".join(
            f"{field.name} = {getattr(attack, field.name)!r}"
            for field in fields(attack)
            if field.name != cell.parameter
        )
    head = ("attack", "view")
    return [
        TextTable(
            "Table 1. Parameters changed for each attack",
            "",
            (*head, "parameter"),
            tuple((*name, value) for name, value in varied.items()),
        ),
        TextTable(
            "Table 2. Parameters held constant for each attack",
            "The paper's eps_iter is step_size here, its nb_iter is steps.",
            (*head, "constants"),
            tuple((*name, value) for name, value in constants.items()),
        ),
    ]


def costs(run: Run) -> TextTable:
    """Return seconds and network evaluations of every cell."""
    rows = []
    for result in run.results:
        cell, facts = result.cell, result.facts
        rows.append((
            str(cell.table), cell.attack or "clean images", cell.model,
            f"{facts['seconds']:.2f}", f"{facts['naive']:,}", f"{facts['executed']:,}",
        ))  # fmt: skip
    return TextTable(
        "Cost per cell",
        "Network evaluations, a forward and a backward pass of one image counting one each: as "
        "the algorithms are written (naive), and as they were run (executed).",
        ("table", "attack", "model", "seconds", "naive", "executed"),
        tuple(rows),
    )


def legend() -> TextTable:
    """Return what the marks in the tables mean."""
    return TextTable("Marks", "Reasons to doubt a number.", ("sign", "meaning"), tuple(LEGEND.items()))
