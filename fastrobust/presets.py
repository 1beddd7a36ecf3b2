"""The presets: which cells the paper's tables have, with its own grids and constants.

Beside the paper's columns stand those of an honest attacker, who attacks the decision instead of
the training loss. A column is one line of `_COLUMNS`.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from . import attacks, paper
from .plans import Cell, Plan
from .recipes import MODEL_NAMES, default_config


class _Column(NamedTuple):
    """One group of columns of a table: the attack for each value of its parameter."""

    table: int
    name: str
    attack: Callable[[float], object]
    view: str = "paper"
    grid_of: str | None = None  # the paper's column whose grid it takes, its own by default


def _bim(eps: float) -> object:
    return attacks.BIM(eps=eps, loss="train")


def _fgsm(eps: float) -> object:
    return attacks.FGSM(eps=eps, loss="train")


def _madry(eps: float) -> object:
    return replace(attacks.PGD.madry(eps), loss="train")


def _mim(eps: float) -> object:
    return attacks.MIM(eps=eps, loss="train")


def _honest(eps: float) -> object:
    """Attack cross-entropy on the class scores; steps of 2.5 eps / steps (arXiv 1706.06083)."""
    return attacks.PGD(eps=eps, loss="ce", step_size=round(2.5 * eps / 20, 9), steps=20)


HONEST = "PGD on class scores"

_COLUMNS = (
    _Column(3, "MIM", _mim),
    _Column(3, "BIM", _bim),
    _Column(3, "FGSM", _fgsm),
    _Column(3, "Madry", _madry),
    _Column(3, HONEST, _honest, "class", grid_of="BIM"),
    _Column(5, "BIM", _bim),
    _Column(5, "Madry", _madry),
    _Column(5, "MIM", _mim),
    _Column(5, "FGSM", _fgsm),
    _Column(5, HONEST, _honest, "class", grid_of="BIM"),
)
TABLES = (3, 4, 5)

# limit: images of the test set; batch: rows at once, for two cores and for a GPU.
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"limit": None, "batch": 500},
    "quick": {"limit": 200, "batch": 200},
}
PRESETS = tuple(_PRESETS)

_NOTES = (
    "The paper's columns run the paper's constants with loss='train': cross-entropy for "
    "O:SOFTMAX:CE, mean-squared error to the target vector for the others. The authors' code "
    "leaves cross-entropy inside BIM for every model; here BIM takes the training loss too.",
    "Untargeted attacks of the paper's columns move away from the model's own decision, since no "
    "label was given to them; accuracy is always against the true label.",
    "The columns in class view attack cross-entropy on the class scores, the largest of which "
    "decides, and move away from the true label; they keep the first success.",
    "Epsilons are in units of pixels in [0, 1], and every image stays in that box. The paper's "
    "CIFAR-10 images were standardised, so its epsilons mean less there.",
)


def make(
    preset: str,
    data_set: str = "digits",
    *,
    tables: Iterable[int] | None = None,
    limit: int | None = None,
    seed: int = 0,
    net: str | None = None,
) -> Plan:
    """Return a preset's plan for a data set.

    Args:
        preset: ``"paper"`` (all test images) or ``"quick"`` (the first 200); the grids and
            constants are the paper's in both.
        data_set: Name as ``data.load`` takes it.
        tables: Which of Tables 3, 4 and 5; all by default.
        limit: Number of images instead of the preset's.
        seed: Of training, targets and random starts.
        net: Name of the network; that of the data set's training recipe by default.

    Raises:
        ValueError: The preset or a table is unknown, or a number is out of range.

    >>> from fastrobust import presets
    >>> len(presets.make("quick", tables=[4]).cells)
    3
    """
    if preset not in _PRESETS:
        raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
    chosen = tuple(TABLES if tables is None else tables)
    if unknown := sorted(set(chosen) - set(TABLES)):
        raise ValueError(f"tables must be among {TABLES}, got {unknown}")
    settings = dict(_PRESETS[preset])
    if limit is not None:
        settings["limit"] = limit
    return Plan(
        data_set=data_set,
        preset=preset,
        net=net or default_config(data_set, MODEL_NAMES[0]).net,
        cells=tuple(cell for table in sorted(set(chosen)) for cell in _cells(table)),
        seed=seed,
        notes=_NOTES,
        **settings,
    )


def _cells(table: int) -> Iterable[Cell]:
    """Yield the cells of one table, row by row."""
    for model in MODEL_NAMES:
        if table == 4:
            yield Cell(4, paper.CLEAN, None, None, model, None)
        for column in _COLUMNS:
            if column.table != table:
                continue
            parameter, values = paper.grid(table, column.grid_of or column.name)
            for value in values:
                attack = repr(column.attack(value))
                labels = "true" if column.view == "class" and table == 3 else "own"
                yield Cell(
                    table, column.name, parameter, value, model, attack,
                    targeted=table == 5, view=column.view, labels=labels,
                )  # fmt: skip
