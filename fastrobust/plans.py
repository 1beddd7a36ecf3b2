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

from . import attacks

VIEWS = ("paper", "class")  # what the attack looks at: what the paper's did, or the class scores
LABELS = ("own", "true")  # what an untargeted attack moves away from: the model's decision, or y


@dataclass(frozen=True)
class Cell:
    """One number of one table.

    Attributes:
        table: The paper's table it belongs to.
        column: Name above its group of columns.
        parameter: Name of the parameter that varies over the group, None under clean images.
        value: That parameter's value.
        model: Name of the classifier.
        attack: The attack's repr, None for clean images.
        targeted: Success rate of a targeted attack if True, else accuracy.
        view: ``"paper"`` for what the paper ran, ``"class"`` for the honest neighbour.
        labels: What an untargeted attack gets as label: the model's ``"own"`` decision on the clean
            image, as in the paper (no label leaks), or the ``"true"`` one.

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

    def __post_init__(self) -> None:
        if not isinstance(self.table, int):
            raise ValueError(f"table must be an integer, got {self.table!r}")
        if not isinstance(self.value, int | float | None):
            raise ValueError(f"value must be a number or null, got {self.value!r}")
        if self.view not in VIEWS:
            raise ValueError(f"view must be one of {VIEWS}, got {self.view!r}")
        if self.labels not in LABELS:
            raise ValueError(f"labels must be one of {LABELS}, got {self.labels!r}")
        if not isinstance(self.targeted, bool):
            raise ValueError(f"targeted must be true or false, got {self.targeted!r}")
        if self.attack is None and self.targeted:
            raise ValueError("targeted must be false for clean images (attack null), got true")
        if self.attack is not None:
            attacks.from_repr(self.attack)


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

    Raises:
        ValueError: There is no cell, or a number is out of range.
    """

    data_set: str
    preset: str
    net: str
    cells: tuple[Cell, ...]
    limit: int | None = None
    seed: int = 0
    batch: int = 200
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("cells must name at least one cell, got none")
        for name, least in (("limit", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if name == "limit" and value is None:
                continue
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the classifiers, in the order of their first cell."""
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able data; `from_json` reads it back."""
        return json.loads(json.dumps(asdict(self)))

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
