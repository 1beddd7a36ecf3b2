"""Reads published tables: the paper's own, a CSV or JSON file of records, a report's.

A file holds one record per number. Its columns, in CSV by the first line, in JSON by the names of
each object in a list:

- ``data``, ``model``, ``attack``: what was attacked, and how. The name of the attack comes first,
  one of `ATTACKS` or ``clean``; a comment after a comma tells two columns apart: ``PGD, DLR``.
- ``accuracy``, or ``success`` if the attack is targeted: the number, a fraction of all images.
- ``setting``: untargeted (the default), targeted, transfer, or targeted transfer. Targets are
  classes other than the label; ``source`` may name the classifier that transferred images were
  made on.
- ``eps`` (for pixels in [0, 1]; ``8/255`` will do), ``c``, ``steps``, ``kappa``: the parameters.
  Without eps the attack is unbounded. ``norm`` is that of eps: linf (the default), l2 or l1.
- ``table``: name of the table; ``images``: sample size.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..attacks.base import by_title, from_repr
from ..paper import printed
from .numbers import PARAMETERS, SETTINGS, Number

# Three printed decimals can resolve 1/1000. The paper attacks "the test set" (section 4.3), 10,000
# images, but does not state that it used all of them; fewer are the more cautious reading.
IMAGES = 1000

_UNBOUNDED = {title for title, kind in by_title().items() if kind.unbounded}
ATTACKS = (*sorted(by_title()), "Madry", "AutoAttack")
_WORDS = {  # by letters and digits alone, in small letters
    **{re.sub(r"[^a-z0-9]", "", name.lower()): name for name in (*ATTACKS, printed.CLEAN)},
    "fgm": "FGSM", "ifgsm": "BIM", "mifgsm": "MIM", "madryetal": "Madry", "aa": "AutoAttack",
    "cw": "CWL2", "carliniwagner": "CWL2", "carliniwagnerl2": "CWL2",
}  # fmt: skip
_COLUMNS = (
    "table", "data", "model", "attack", "setting", "source", "accuracy", "success", *PARAMETERS,
    "norm", "images",
)  # fmt: skip
# The columns that are read from a report's ``tables.csv``.
_OF_A_REPORT = {
    "table", "data_set", "model", "column", "attack", "targeted", "view", "source", "probe",
    "rate", "images",
}  # fmt: skip

Record = Mapping[str, Any]


def read(where: str | os.PathLike[str], images: int = IMAGES) -> tuple[Number, ...]:
    """Return the numbers of published tables.

    Args:
        where: The word ``paper`` for the numbers of arXiv:1812.00181; a .json or .csv file of
            records; a run folder with a report, or the report's tables.csv.
        images: Sample size of each number, if the file does not say.

    Raises:
        FileNotFoundError: There is no such file, or no report in the run folder.
        ValueError: The file holds no records, or a wrong one; the message says which, and why.

    >>> numbers = read("paper")
    >>> len(numbers), numbers[0].words, numbers[0].rate
    (483, 'CWL2 (c = 0.01, steps = 1000)', 0.022)
    """
    if where == "paper":
        return tuple(_of_paper(images))
    path = _file(where)
    records = dict(_json(path) if path.suffix == ".json" else _csv(path))
    if not records:
        raise ValueError(f"{path} must hold at least one number, got none")
    seen: dict[Number, str] = {}  # the record of each number, by the number without its rate
    numbers = []
    for where_in_file, record in records.items():
        report = record.keys() >= _OF_A_REPORT
        try:
            number = _of_report(record) if report else _of_record(record, images)
            same = replace(number, rate=0.0)
            if same in seen and not report:  # a report may show one number in two of its tables
                raise ValueError(
                    f"every number must be given once, got {number.words} on {number.model} "
                    f"({number.data}) in {seen[same]} too"
                )
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, {where_in_file}: {error}") from error
        seen[same] = where_in_file
        numbers.append(number)
    return tuple(numbers)


def _file(where: str | os.PathLike[str]) -> Path:
    path = Path(where)
    if path.is_dir():
        if not (path / "tables.csv").is_file():
            raise FileNotFoundError(
                f"{where} must be a run folder with tables.csv, got none there; "
                f"fastrobust report {where} writes it"
            )
        return path / "tables.csv"
    if path.suffix not in (".json", ".csv"):
        raise ValueError(
            f"tables must be the word paper, a .json or .csv file or a run folder, got {where}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{where} must be a file of tables, got no such file")
    return path


def _json(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON, got: {error}") from error
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ValueError(f"{path} must hold a list of objects, one per number")
    for count, entry in enumerate(content, 1):
        yield f"record {count}", entry


def _csv(path: Path) -> Iterator[tuple[str, Record]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restkey="a field without a column", skipinitialspace=True)
        try:
            for line in reader:
                yield f"line {reader.line_num}", {key: text or None for key, text in line.items()}
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} must hold CSV in UTF-8, got: {error}") from error


def _of_paper(images: int) -> Iterator[Number]:
    steps = {"FGSM": 1, "BIM": 10, "MIM": 10, "Madry": 40}  # held constant: Table 2
    for data_set in printed.DATA_SETS:
        for table, model, column, value, rate in printed.numbers(data_set):
            parameters: dict[str, Any] = {"eps": 0.0}
            if column != printed.CLEAN:
                name, _ = printed.grid(table, column)
                parameters = {"steps": steps.get(column, 1000), _LETTERS.get(name, name): value}
            yield Number(
                data_set, model, column, rate, table=f"Table {table}", images=images,
                setting={5: "targeted", 6: "transfer", 7: "targeted"}.get(table, "untargeted"),
                source="O:SOFTMAX:CE" if table == 6 else None, **parameters,
            )  # fmt: skip


_LETTERS = {"initial_const": "c", "max_steps": "steps"}  # our names of the same parameters


def _of_report(line: Record) -> Number:
    """Read a line of a report's ``tables.csv``."""
    name = printed.CLEAN
    parameters: dict[str, Any] = {"eps": 0.0}
    if line["attack"]:
        attack = from_repr(line["attack"])
        name = line["column"] + (" in class view" if line["view"] == "class" else "")
        parameters = {
            "eps": getattr(attack, "eps", None),
            "c": getattr(attack, "initial_const", None),
            "steps": getattr(attack, "steps", getattr(attack, "max_steps", None)),
            "kappa": getattr(attack, "confidence", None),
            "norm": getattr(attack, "norm", "linf"),
        }
    return Number(
        line["data_set"], line["model"], name, float(line["rate"]),
        setting=SETTINGS[2 * bool(line["source"]) + (line["targeted"] == "True")],
        source=line["source"], table="Figure 1" if line["probe"] == "True" else
        f"Table {line['table']}", images=int(line["images"]), **parameters,
    )  # fmt: skip


def _of_record(record: Record, images: int) -> Number:
    """Check one record of a file, see the top of this one."""
    given = {name: value for name, value in record.items() if value is not None}
    if unknown := [name for name in given if name not in _COLUMNS]:
        raise ValueError(f"columns must be among {', '.join(_COLUMNS)}, got {unknown}")
    if missing := [name for name in ("data", "model", "attack") if name not in given]:
        raise ValueError(f"every number must come with data, model and attack, got no {missing[0]}")
    attack, word = str(given["attack"]), _word(str(given["attack"]))
    parameters: dict[str, Any] = {
        name: _decimal(given[name], name) for name in (*PARAMETERS, "images") if name in given
    }
    setting = str(given.get("setting", "untargeted"))
    metric = "success" if "targeted" in setting.split() else "accuracy"
    if {"accuracy", "success"} & given.keys() != {metric}:
        got = " and ".join(name for name in ("accuracy", "success") if name in given) or "neither"
        raise ValueError(f"a number of setting {setting} must be given as {metric}, got {got}")
    if word == printed.CLEAN:
        attack, parameters = printed.CLEAN, {**parameters, "eps": 0.0}
    elif "eps" not in parameters and word not in _UNBOUNDED:
        raise ValueError(f"{word} must come with its eps, got none")
    if word == "FGSM":
        parameters["steps"] = 1
    table = str(given.get("table", ""))
    return Number(
        str(given["data"]), str(given["model"]), attack, _decimal(given[metric], metric),
        setting=setting, source=given.get("source"), norm=str(given.get("norm", "linf")),
        table=f"Table {table}" if table[:1].isdigit() else table,
        **{"images": images, **parameters},
    )  # fmt: skip


def _word(attack: str) -> str:
    """Return the attack that a name stands for, up to a comma: one of `ATTACKS`.

    >>> _word("Carlini & Wagner"), _word("pgd, DLR loss")
    ('CWL2', 'PGD')
    """
    letters = re.sub(r"[^a-z0-9]", "", attack.partition(",")[0].lower())
    if letters not in _WORDS:
        raise ValueError(
            f"attack must be clean or start with one of {', '.join(ATTACKS)}, got {attack!r}"
        )
    return _WORDS[letters]


def _decimal(value: object, name: str) -> float:
    """Return a number, also from text such as 8/255."""
    try:
        if isinstance(value, str):
            return float(Fraction(value.strip()))
        if not isinstance(value, bool) and isinstance(value, int | float):
            return float(value)
    except (ValueError, ZeroDivisionError):
        pass
    raise ValueError(f"{name} must be a number, got {value!r}")
