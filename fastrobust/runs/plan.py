"""The plan of a sweep: plain data, a list of cells over one data set.

A cell is one number of one table: an attack (its repr), a classifier and the labels.
``fastrobust.presets.make`` returns the paper's plans; your own plan is a JSON file of the same
form.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from ..attacks.base import Attack, from_repr
from ..engine.prepared import PRECISIONS

VIEWS = ("paper", "class")  # an attack's loss: the paper's, or one on the class scores
LABELS = ("own", "true")  # what an untargeted attack moves away from: the model's decision, or y
_FLAGS = ("targeted", "probe", "distances")
_CLEAN = "for clean images (attack null)"


@dataclass(frozen=True)
class Cell:
    """One number of one table.

    Attributes:
        table: Number of its table.
        column: Name above its group of columns.
        parameter: Name of the parameter that varies over the group, None for clean images.
        value: That parameter's value.
        model: Name of the classifier.
        attack: The attack's repr, None for clean images.
        targeted: Success rate of a targeted attack if True, else accuracy.
        view: ``"paper"`` for what the paper ran, ``"class"`` for an attack on the class scores.
        labels: Label that an untargeted attack gets: the model's ``"own"`` decision on the clean
            image, as in the paper (no label leaks), or the ``"true"`` one.
        source: Name of another classifier for a transfer attack: `attack` makes its images against
            `source`, and `model` classifies them. None where `model` itself is attacked.
        probe: The cell is one value of a bisection (``runs/bisection.py``): it is measured only if
            the bisection comes to it.
        distances: Report distances and images too, not the rate alone; no search for the nearest
            image stops at its first success then.

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
        clean = self.attack is None
        rules = [
            ("table", isinstance(self.table, int), "an integer"),
            ("value", isinstance(self.value, int | float | None), "a number or null"),
            ("view", self.view in VIEWS, f"one of {VIEWS}"),
            ("labels", self.labels in LABELS, f"one of {LABELS}"),
            *((name, isinstance(getattr(self, name), bool), "true or false") for name in _FLAGS),
            *((name, not (clean and getattr(self, name)), f"false {_CLEAN}") for name in _FLAGS),
            ("source", isinstance(self.source, str | None), "a classifier's name or null"),
            ("source", not clean or self.source is None, f"null {_CLEAN}"),
            ("source", self.source != self.model, "another classifier than model"),
            ("value", not self.probe or self.value is not None, "a number in a probe"),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")
        _ = self.parsed_attack

    @cached_property
    def parsed_attack(self) -> Attack[Any] | None:
        """The attack itself, None for clean images."""
        return None if self.attack is None else from_repr(self.attack)

    @property
    def line(self) -> str:
        """Name of its line in a table: the model, for a transfer ``source → model``."""
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
        preset: Name of the preset it came from, or any name.
        net: Name of the network, as ``models.by_name`` takes it.
        cells: What to measure, in the order of the tables.
        limit: Number of test images, the first ones; None for all.
        seed: Seed of targets and random starts, and of training.
        batch: Number of rows in every call of the network. It changes the last bits of a
            convolution, so it is part of a result's identity.
        notes: Sentences for the reader of the report.
        like: Known data set that `data_set` is a copy of, None for none: it is trained by that
            one's recipe, and compared with the numbers printed for it.
        precision: Precision of the networks during an attack, as ``engine.prepare`` takes it;
            decisions are made in float32.

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
        least = {"batch": 1, "seed": 0, **({} if self.limit is None else {"limit": 1})}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be an integer >= {low}, got {value!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )

    @property
    def known_as(self) -> str:
        """Name of the data set whose recipes and printed numbers are used."""
        return self.like or self.data_set

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the classifiers, sources of transfers too, in the order of their first cell."""
        names = (name for cell in self.cells for name in (cell.source, cell.model) if name)
        return tuple(dict.fromkeys(names))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able data; `from_json` reads it back."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        # Run folders of older versions lack these fields.
        for name, default in (("like", None), ("precision", "fp32")):
            if content[name] == default:
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
    """Return `content` as a dict if its keys are fields of the dataclass `cls`."""
    if not isinstance(content, Mapping):
        raise ValueError(f"a {what} must be a JSON object, got {type(content).__name__}")
    known = {field.name for field in fields(cls)}
    required = {field.name for field in fields(cls) if field.default is MISSING}
    if unknown := sorted(content.keys() - known):
        raise ValueError(f"{what}: fields must be among {sorted(known)}, got {unknown}")
    if missing := sorted(required - content.keys()):
        raise ValueError(f"{what}: fields must be given: {missing}")
    return dict(content)
