"""Tables of text: parameters, distances and costs of the attacks."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, cast

from ..attacks.base import from_repr
from ..runs.plan import Cell
from ..utils.text import TextTable
from .flags import LEGEND
from .results import Result, Run
from .tables import VIEW_NAMES

FIRST_SUCCESS = "first success"


def attack_tables(run: Run) -> list[TextTable]:
    """Return Tables 1 and 2: the parameters that vary and those held constant."""
    columns: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    varied: dict[tuple[str, str], str] = {}
    for cell in run.plan.cells:
        if cell.attack is None or cell.parameter is None:
            continue
        attack = from_repr(cell.attack)
        name = (cell.column, VIEW_NAMES[cell.view])
        letter = attack.letters.get(cell.parameter)
        varied[name] = f"{cell.parameter} ({letter})" if letter else cell.parameter
        constants = columns.setdefault(name, {})
        for field in fields(cast(Any, attack)):
            if field.name != cell.parameter:
                constants.setdefault(field.name, {})[str(getattr(attack, field.name))] = None
    # A field that follows the parameter shows all its values.
    texts = {
        name: ", ".join(f"{field} {' / '.join(values)}" for field, values in constants.items())
        for name, constants in columns.items()
    }
    head = ("attack", "protocol")
    return [
        TextTable(
            "Table 1. Parameters changed for each attack",
            "",
            (*head, "parameter"),
            tuple((*name, value) for name, value in varied.items()),
        ),
        TextTable(
            "Table 2. Parameters held constant for each attack",
            "The paper's eps_iter is step_size here, its nb_iter is steps, its max_iterations and "
            "max_iter are max_steps, its nb_candidate is candidates.",
            (*head, "constants"),
            tuple((*name, text) for name, text in texts.items()),
        ),
    ]


def distances(run: Run) -> TextTable:
    """Return the median L2 and Linf of the successes, a column per classifier (section 5.5)."""
    models = run.plan.models
    by_attack: dict[tuple[object, ...], dict[str, str]] = {}
    for result in run.results:
        cell = result.cell
        if cell.attack is not None:
            view = VIEW_NAMES[cell.view] + (", transferred" if cell.source else "")
            attack = (cell.table, cell.column, view, cell.parameter, cell.value)
            by_attack.setdefault(attack, {})[cell.model] = _distance(result)
    rows = (
        (
            str(table),
            str(column),
            str(view),
            f"{parameter} {value}",
            *(by_model.get(m, "-") for m in models),
        )
        for (table, column, view, parameter, value), by_model in by_attack.items()
    )
    return TextTable(
        "Median distances of the successes",
        "L2 / Linf with pixels in [0, 1], over the images on which the attack succeeded; a dash if "
        f"it never did. '{FIRST_SUCCESS}': the attack stopped at its first success, so its "
        "distances are not minimal and not shown.",
        ("table", "attack", "protocol", "parameter", *models),
        tuple(rows),
    )


def _distance(result: Result) -> str:
    if result.first_success:
        return FIRST_SUCCESS
    l2, linf = result.median("l2"), result.median("linf")
    return "-" if l2 is None or linf is None else f"{l2:.3g} / {linf:.3g}"


def cost_sums(run: Run) -> TextTable:
    """Return seconds and network evaluations of every table and of the whole run."""
    by_table: dict[str, list[Result]] = {}
    for result in run.results:
        by_table.setdefault(_table(result.cell), []).append(result)
    rows = [(name, *_sums(by_table[name])) for name in sorted(by_table)]
    if rows:
        rows.append(("in total", *_sums(run.results)))
    return TextTable(
        "Cost",
        "Network evaluations; a forward and a backward pass of one image count one each. Naive: as "
        "the algorithms are written. Executed: as they ran. A number that is in two tables was "
        "measured once and counts once in total.",
        ("table", "numbers", "seconds", *_EVALUATIONS),
        tuple(rows),
    )


_EVALUATIONS = ("naive", "executed", "naive / executed")


def _sums(results: Iterable[Result]) -> tuple[str, ...]:
    once = {result.key: result.facts for result in results}.values()
    counted = [facts for facts in once if {"naive", "executed"} <= facts.keys()]
    naive, executed = (sum(f[name] for f in counted) for name in ("naive", "executed"))
    seconds = sum(facts.get("seconds", 0.0) for facts in once)
    return str(len(once)), f"{seconds:.1f}", *_evaluations(naive, executed)


def _evaluations(naive: int | None, executed: int | None) -> tuple[str, str, str]:
    if naive is None or executed is None:
        return "-", "-", "-"
    return f"{naive:,}", f"{executed:,}", f"{naive / executed:.2f}" if executed else "-"


def costs(run: Run) -> TextTable:
    """Return seconds and network evaluations of every number."""
    rows = []
    for result in run.results:
        cell, facts = result.cell, result.facts
        seconds, stalled = facts.get("seconds"), facts.get("stalled")
        rows.append((
            _table(cell), cell.attack or "clean images", cell.line,
            "-" if seconds is None else f"{seconds:.2f}",
            *_evaluations(facts.get("naive"), facts.get("executed")),
            "-" if stalled is None else str(stalled),
        ))  # fmt: skip
    return TextTable(
        "Cost of each number",
        "Stalled: images on which the attack ended early because its iterate no longer changed.",
        ("table", "attack", "model", "seconds", *_EVALUATIONS, "stalled"),
        tuple(rows),
    )


def _table(cell: Cell) -> str:
    return "Figure 1" if cell.probe else f"Table {cell.table}"


def legend() -> TextTable:
    """Return what the marks in the tables mean."""
    signs = tuple(LEGEND.items())
    return TextTable("Marks", "Reasons to doubt a number.", ("sign", "meaning"), signs)
