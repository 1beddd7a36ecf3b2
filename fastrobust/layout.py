"""Which tables a run has, and what stands where in them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, cast

import numpy as np

from . import attacks
from .marks import LEGEND, Marks
from .plans import VIEWS, Cell
from .results import Run, robust_at, smallest_breaks
from .tables import Entry, Group, RateTable, TextTable

TITLES = {
    3: ("Accuracy under untargeted attack", "Higher is better for the classifier."),
    4: ("Accuracy on clean images", "No attack."),
    5: ("Success rate of targeted attack", "Lower is better for the classifier."),
}
VIEW_NAMES = {"paper": "paper's view", "class": "class view"}


def rate_tables(run: Run, marks: Marks) -> list[RateTable]:
    """Return the plan's tables, clean accuracy first, then the worst case over attacks."""
    numbers = sorted({cell.table for cell in run.plan.cells}, key=lambda n: (n != 4, n))
    tables = [_paper_table(run, number, marks) for number in numbers]
    worst = _worst_case(run)
    return [*tables, worst] if worst else tables


def _paper_table(run: Run, number: int, marks: Marks) -> RateTable:
    """Lay out one of the paper's tables, with a gap where a cell is missing."""
    results = {result.cell: result for result in run.results}
    groups: dict[tuple[str, str | None], list[Cell]] = {}
    for cell in run.plan.cells:
        if cell.table == number:
            view = VIEW_NAMES[cell.view] if cell.attack else None
            groups.setdefault((cell.column, view), []).append(cell)

    def entry(cell: Cell | None) -> Entry | None:
        result = results.get(cell) if cell else None
        if result is None:
            return None
        return Entry(result.rate, result.defended, result.paper, marks.get(result, ()))

    def group(name: str, view: str | None, cells: list[Cell]) -> Group:
        columns = dict.fromkeys((cell.parameter, cell.value) for cell in cells)
        at = {(cell.parameter, cell.value, cell.model): cell for cell in cells}
        heads = tuple(f"{p} {v:g}" if p else "accuracy" for p, v in columns)
        entries = {m: tuple(entry(at.get((p, v, m))) for p, v in columns) for m in models}
        return Group(name, view, heads, entries)

    models = tuple(dict.fromkeys(cell.model for cells in groups.values() for cell in cells))
    title, caption = TITLES.get(number, ("", ""))
    laid = tuple(group(name, view, cells) for (name, view), cells in groups.items())
    return RateTable(f"Table {number}. {title}", caption + _targets_met(run, number), models, laid)


def _targets_met(run: Run, number: int) -> str:
    """Say on how many images the target is what the classifier decides without any attack."""
    met = {result.cell.model: result.met for result in run.select(table=number)}
    words = ", ".join(f"{model} {count}" for model, count in met.items() if count)
    if not words:
        return ""
    return f" Successes without any attack, since the clean decision is the target: {words}."


def _worst_case(run: Run) -> RateTable | None:
    """Return the accuracy left when every image meets its worst attack, per eps budget."""
    untargeted = list(run.select(targeted=False, parameter="eps"))
    budgets = _shared_budgets(result.cell for result in untargeted)
    models = tuple(dict.fromkeys(result.cell.model for result in untargeted))
    if not models:
        return None
    groups = []
    for name, views in (("the paper's attacks", VIEWS[:1]), ("all attacks", VIEWS)):
        entries = {}
        for model in models:
            found = [r for r in untargeted if r.cell.model == model and r.cell.view in views]
            radius = smallest_breaks(found) if found else None
            entries[model] = tuple(None if radius is None else _left(radius, e) for e in budgets)
        groups.append(Group(name, None, tuple(f"eps {eps:g}" for eps in budgets), entries))
    caption = (
        "Accuracy left when an image counts as lost as soon as any untargeted attack has moved it "
        "off its true label within the Linf distance eps."
    )
    return RateTable("Worst case over attacks", caption, models, tuple(groups))


def _left(radius: np.ndarray, eps: float) -> Entry:
    rate = robust_at(radius, eps)
    return Entry(rate, rate.value)


def _shared_budgets(cells: Iterable[Cell]) -> list[float]:
    """Return the values of eps that more than one attack has, all of them if none has."""
    columns = {(cell.column, cell.value) for cell in cells if cell.value is not None}
    count = Counter(value for _, value in columns)
    return sorted(v for v in count if count[v] > 1) or sorted(count)


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
