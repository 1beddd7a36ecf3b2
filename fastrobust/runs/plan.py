"""What a sweep measures: a plan is plain data, a list of cells over one data set.

A cell is one place of one table: which attack (its repr), on which model, judged how.
``presets.make`` writes the plans of the paper; anyone's own plan is a JSON file of the same form.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .. import attacks
from ..engine.prepared import PRECISIONS

VIEWS = ("paper", "class")  # what the attack looks at: what the paper's did, or the class scores
LABELS = ("own", "true")  # what an untargeted attack moves away from: the model's decision, or y


@dataclass(frozen=True)
class Cell:
    """One number of one table.

    Attributes:
        table: The paper's table it belongs to; 1, 8 and 9 are ours, see `FIGURE_1`, `ABLATION`
            and `DEFENCES`.
        column: Name above its group of columns.
        parameter: Name of the parameter that varies over the group, None under clean images.
        value: That parameter's value.
        model: Name of the classifier.
        attack: The attack's repr, None for clean images.
        targeted: Success rate of a targeted attack if True, else accuracy.
        view: ``"paper"`` for what the paper ran, ``"class"`` for the honest neighbour.
        labels: What an untargeted attack gets as label: the model's ``"own"`` decision on the clean
            image, as in the paper (no label leaks), or the ``"true"`` one.
        source: Another classifier under a transfer attack: `attack` makes its images against that
            one, and `model` judges them. None where `model` itself is attacked.
        probe: A cell that a search visits only if it needs it, see ``probing``.
        distances: Its distances and images count too, not its rate alone, so that no search for the
            nearest image stops at the first success.

    Raises:
        ValueError: A field has a value outside its range, or `attack` is no attack's repr.
    """

    table: int
    column: str
    parameter: str | None
    value: float | None
    model: str
    attack: str | None
    targeted: bool = False
    view: str = "paper"
    labels: str = "own"
    source: str | None = None
    probe: bool = False
    distances: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.table, int):
            raise ValueError(f"table must be an integer, got {self.table!r}")
        if not isinstance(self.value, int | float | None):
            raise ValueError(f"value must be a number or null, got {self.value!r}")
        if self.view not in VIEWS:
            raise ValueError(f"view must be one of {VIEWS}, got {self.view!r}")
        if self.labels not in LABELS:
            raise ValueError(f"labels must be one of {LABELS}, got {self.labels!r}")
        for name in ("targeted", "probe", "distances"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value!r}")
            if value and self.attack is None:
                raise ValueError(f"{name} must be false for clean images (attack null), got true")
        if not isinstance(self.source, str | None):
            raise ValueError(f"source must be a classifier's name or null, got {self.source!r}")
        if self.source is not None and self.attack is None:
            raise ValueError(
                f"source must be null for clean images (attack null), got {self.source!r}"
            )
        if self.source == self.model:
            raise ValueError(f"source must be another classifier than model, got {self.source!r}")
        if self.probe and self.value is None:
            raise ValueError("value must be a number in a probe, got null")
        if self.attack is not None:
            attacks.from_repr(self.attack)

    @property
    def line(self) -> str:
        """Name of its line in a table: the model, under transfer ``source → model``."""
        return f"{self.source} → {self.model}" if self.source else self.model

    @property
    def words(self) -> str:
        """Its attack in words: column, view and parameter."""
        view = " in class view" if self.view == "class" else ""
        at = "" if self.value is None else f" at {self.parameter} = {self.value:g}"
        return f"{self.column}{view}{at}"


@dataclass(frozen=True)
class Plan:
    """A data set, how much of it, and the cells to measure.

    Attributes:
        data_set: Name as ``data.load`` takes it.
        preset: Name of the preset it came from, or what its author calls it.
        net: Name of the network, as ``models.by_name`` takes it.
        cells: What to measure, in the order of the tables.
        limit: Number of test images from the first on, None for all.
        seed: Of targets and random starts; training takes it as well.
        batch: Rows the network always gets at once. It moves the last bits of a convolution, so it
            belongs to the identity of a result.
        notes: Sentences for the reader of the report.
        like: Which of the known data sets `data_set` is a copy of, None for none: its training
            recipe holds, and the paper's numbers for it stand beside ours.
        precision: Of the networks while an attack searches, as ``engine.prepare`` takes it;
            decisions are float32's.

    Raises:
        ValueError: There is no cell, a number is out of range, or there is no such precision.
    """

    data_set: str
    preset: str
    net: str
    cells: tuple[Cell, ...]
    limit: int | None = None
    seed: int = 0
    batch: int = 200
    notes: tuple[str, ...] = ()
    like: str | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("cells must name at least one cell, got none")
        for name, least in (("limit", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if name == "limit" and value is None:
                continue
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )

    @property
    def known_as(self) -> str:
        """Name of the data set under which recipes and the paper's numbers are found."""
        return self.like or self.data_set

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the classifiers, sources of transfers too, in the order of their first cell."""
        names = (name for cell in self.cells for name in (cell.source, cell.model) if name)
        return tuple(dict.fromkeys(names))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able data; `from_json` reads it back."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        # As in the run folders of before there were such fields.
        for name, usual in (("like", None), ("precision", "fp32")):
            if content[name] == usual:
                del content[name]
        return content

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Plan":
        """Return the plan in a JSON file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not JSON, or no plan; the message says which field is wrong.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} must hold a plan in JSON, got: {error}") from error
        return cls.from_json(content)

    @classmethod
    def from_json(cls, content: object) -> "Plan":
        """Return the plan that `content` describes.

        Raises:
            ValueError: A field is missing, unknown or out of range; the message says which.

        >>> from fastrobust import plans, presets
        >>> plan = presets.make("quick", "digits", tables=(4,))
        >>> plans.Plan.from_json(plan.to_json()) == plan
        True
        """
        values = _checked(cls, content, "plan")
        if not isinstance(values["cells"], list):
            raise ValueError("plan: cells must be a list")
        cells = []
        for number, entry in enumerate(values["cells"], 1):
            try:
                cells.append(Cell(**_checked(Cell, entry, "cell")))
            except (ValueError, TypeError) as error:
                raise ValueError(f"plan, cell {number}: {error}") from error
        notes = tuple(values.get("notes", ()))
        try:
            return cls(**{**values, "cells": tuple(cells), "notes": notes})
        except TypeError as error:
            raise ValueError(f"plan: {error}") from error


def _checked(cls: type, content: object, what: str) -> dict[str, Any]:
    """Return `content` if it is a mapping with the field names of the dataclass `cls`."""
    if not isinstance(content, Mapping):
        raise ValueError(f"a {what} must be a JSON object, got {type(content).__name__}")
    known = {field.name for field in fields(cls)}
    required = {field.name for field in fields(cls) if field.default is MISSING}
    if unknown := sorted(content.keys() - known):
        raise ValueError(f"{what}: fields must be among {sorted(known)}, got {unknown}")
    if missing := sorted(required - content.keys()):
        raise ValueError(f"{what}: fields must be given: {missing}")
    return dict(content)
