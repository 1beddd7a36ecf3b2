"""The numbers that Saito and Roy printed (2018, arXiv:1812.00181, Tables 3 to 7).

They are facts, kept in ``tables.json``: one record per row of the paper and attack. A plan
takes its parameter grids from here, a report the value to print beside ours.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

DATA_SETS = ("cifar10", "mnist", "fashion_mnist")  # the order of the paper's blocks
CLEAN = "clean"  # the name of the column of Table 4, which no attack made


@cache
def _content() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("tables.json").read_text(encoding="utf-8")
    return json.loads(text)


def source() -> str:
    """Return the reference that every number of this module comes from."""
    return _content()["source"]


@cache
def _results() -> dict[tuple[int, str, str, str], dict[float | None, float]]:
    """Return {(table, data set, model, attack): {parameter value: number}}."""
    return {
        (record["table"], record["data_set"], record["model"], record["attack"]): dict(
            zip(record["values"], record["results"], strict=True)
        )
        for record in _content()["rows"]
    }


def lookup(
    table: int, data_set: str, model: str, attack: str, value: float | None = None
) -> float | None:
    """Return one number of the paper, or None if it prints none there.

    Args:
        table: 3 and 6 hold accuracies under untargeted attack, 4 clean accuracies, 5 and 7 success
            rates of targeted attacks; all of them fractions of 1.
        data_set: ``cifar10``, ``mnist`` or ``fashion_mnist``.
        model: ``O:SOFTMAX:CE``, ``O:SOFTMAX:MSE`` or ``R:TANH:MSE``.
        attack: The paper's name of the column, or ``"clean"`` in Table 4.
        value: The parameter's value above the column.

    >>> from fastrobust.paper import printed
    >>> printed.lookup(3, "mnist", "R:TANH:MSE", "BIM", 0.1)
    0.429
    >>> printed.lookup(4, "mnist", "O:SOFTMAX:CE", "clean")
    0.996
    """
    return _results().get((table, data_set, model, attack), {}).get(value)


def numbers(data_set: str) -> Iterator[tuple[int, str, str, float | None, float]]:
    """Yield table, model, column, value and number of everything printed for a data set.

    >>> from fastrobust.paper import printed
    >>> len(list(printed.numbers("mnist")))
    161
    """
    for (table, name, model, attack), results in _results().items():
        if name == data_set:
            for value, number in results.items():
                yield table, model, attack, value, number


@cache
def grid(table: int, attack: str) -> tuple[str, tuple[float, ...]]:
    """Return the parameter's name and the values above one group of columns.

    Raises:
        ValueError: The table has no such column.

    >>> from fastrobust.paper import printed
    >>> printed.grid(5, "Madry")
    ('eps', (0.04, 0.06, 0.08, 0.1))
    """
    for record in _content()["rows"]:
        if (record["table"], record["attack"]) == (table, attack):
            return record["parameter"], tuple(record["values"])
    raise ValueError(f"table and attack must name a column of the paper, got {table} and {attack}")
