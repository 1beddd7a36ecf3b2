"""Lays results out as tables: the paper's as it prints them, and plain ones of text.

Every table can end as a `TextTable`, which the terminal and Markdown print as it is; the page draws
the tables of rates from the richer `RateTable`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, cast

from . import attacks
from .marks import LEGEND, Mark, Marks
from .plans import VIEWS, Cell
from .results import Rate, Run, robust_at, smallest_breaks

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
    view: str | None
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
    """One number of a table with what belongs beside it.

    Attributes:
        rate: The number.
        defended: The share of images that the attacker did not get.
        paper: What the paper prints at this place, None where it prints nothing.
        marks: Reasons to doubt it.
    """

    rate: Rate
    defended: float
    paper: float | None = None
    marks: tuple[Mark, ...] = ()

    def text(self, *, brief: bool) -> str:
        """Rate, interval unless `brief`, the paper's value, signs of the marks."""
        words = [f"{self.rate.value:.3f}" if brief else rate_text(self.rate)]
        if self.paper is not None:
            words.append(f"({self.paper:.3f})" if brief else f"(paper {self.paper:.3f})")
        words += [mark.sign for mark in self.marks]
        return " ".join(words)


@dataclass(frozen=True)
class Block:
    """Some groups of columns with a row per classifier below them."""

    groups: tuple[Group, ...]
    rows: tuple[tuple[str, tuple[Entry | None, ...]], ...]


@dataclass(frozen=True)
class RateTable:
    """A table of rates: one of the paper's with our numbers in it, or one like them."""

    title: str
    caption: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """A name for links: ``table-3``, ``worst-case``."""
        return "-".join(self.title.lower().replace(".", "").split()[:2])

    def as_text(self, *, brief: bool = False) -> Iterator[TextTable]:
        """Yield one table of text per block; `brief` leaves the intervals out."""
        for block in self.blocks:
            heads = (f"{group.name}, {head}" for group in block.groups for head in group.heads)
            rows = (
                (model, *(entry.text(brief=brief) if entry else "-" for entry in entries))
                for model, entries in block.rows
            )
            yield TextTable(self.title, self.caption, ("model", *heads), tuple(rows))


def rate_text(rate: Rate) -> str:
    """Return a rate with its interval.

    >>> from fastrobust.results import Rate
    >>> from fastrobust.tables import rate_text
    >>> rate_text(Rate(86, 200))
    '0.430 [0.363, 0.499]'
    """
    low, high = rate.interval
    return f"{rate.value:.3f} [{low:.3f}, {high:.3f}]"


def rate_tables(run: Run, marks: Marks) -> list[RateTable]:
    """Return the plan's tables, clean accuracy first, then the worst case over attacks."""
    numbers = sorted({cell.table for cell in run.plan.cells}, key=lambda n: (n != 4, n))
    return [_paper_table(run, number, marks) for number in numbers] + _worst_case(run)


def _paper_table(run: Run, number: int, marks: Marks) -> RateTable:
    """Lay out one of the paper's tables, with a gap where a cell is missing."""
    results = {result.cell: result for result in run.results}
    cells = {
        (cell.column, cell.view, cell.value, cell.model): cell
        for cell in run.plan.cells
        if cell.table == number
    }
    models = tuple(dict.fromkeys(cell.model for cell in cells.values()))

    def entry(group: Group, value: float | None, model: str) -> Entry | None:
        cell = cells.get((group.name, group.view or VIEWS[0], value, model))
        result = results.get(cell) if cell else None
        if result is None:
            return None
        return Entry(result.rate, result.defended, result.paper, marks.get(result, ()))

    def block(groups: tuple[Group, ...]) -> Block:
        places = [(group, value) for group in groups for value in group.values]
        rows = ((m, tuple(entry(group, value, m) for group, value in places)) for m in models)
        return Block(groups, tuple(rows))

    groups = _groups(cells.values())
    starts = range(0, len(groups), GROUPS_PER_BLOCK)
    blocks = tuple(block(groups[start : start + GROUPS_PER_BLOCK]) for start in starts)
    title, caption = TITLES.get(number, ("", ""))
    return RateTable(f"Table {number}. {title}", caption, blocks)


def _groups(cells: Iterable[Cell]) -> tuple[Group, ...]:
    """Return the groups of columns in the order of their first cells."""
    values: dict[tuple[str, str, str | None], dict[float | None, None]] = {}
    for cell in cells:
        values.setdefault((cell.column, cell.view, cell.parameter), {})[cell.value] = None
    return tuple(
        Group(name, view if parameter else None, parameter, tuple(found))
        for (name, view, parameter), found in values.items()
    )


def _worst_case(run: Run) -> list[RateTable]:
    """Return the accuracy left when every image meets its worst attack, per eps budget."""
    untargeted = list(run.select(targeted=False, parameter="eps"))
    budgets = sorted({result.value for result in untargeted})
    rows = []
    for model in run.plan.models:
        for words, views in (("paper's attacks", VIEWS[:1]), ("all attacks", VIEWS)):
            found = [r for r in untargeted if r.cell.model == model and r.cell.view in views]
            if found:
                radius = smallest_breaks(found)
                rates = [robust_at(radius, eps) for eps in budgets]
                rows.append((f"{model}, {words}", tuple(Entry(r, r.value) for r in rates)))
    if not rows:
        return []
    caption = (
        "Accuracy left when an image counts as lost as soon as any untargeted attack has moved it "
        "off its true label within that distance."
    )
    group = Group("within a distance (Linf) of", None, "eps", tuple(budgets))
    return [RateTable("Worst case over attacks", caption, (Block((group,), tuple(rows)),))]


def attack_tables(run: Run) -> list[TextTable]:
    """Return Tables 1 and 2: what varies and what is held constant, read off the attacks."""
    columns: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    varied: dict[tuple[str, str], str] = {}
    for cell in run.plan.cells:
        if cell.attack is None or cell.parameter is None:
            continue
        attack = attacks.from_repr(cell.attack)
        name = (cell.column, VIEW_NAMES[cell.view])
        varied[name] = cell.parameter
        constants = columns.setdefault(name, {})
        for field in fields(cast(Any, attack)):
            if field.name != cell.parameter:
                constants.setdefault(field.name, {})[str(getattr(attack, field.name))] = None
    # A field that follows the parameter shows all its values.
    texts = {
        name: ", ".join(f"{field} {' / '.join(values)}" for field, values in constants.items())
        for name, constants in columns.items()
    }
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
            tuple((*name, text) for name, text in texts.items()),
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
    signs = tuple(LEGEND.items())
    return TextTable("Marks", "Reasons to doubt a number.", ("sign", "meaning"), signs)
