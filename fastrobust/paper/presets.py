"""The presets: which cells the paper's tables have, with its own grids and constants."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..data import NAMES as DATA_SETS
from ..runs.plan import Cell, Plan
from ..train.classifiers import MODEL_NAMES
from ..train.recipes import default_config
from . import printed
from .columns import (
    ABLATION,
    ASIDE,
    CODED_MODELS,
    COMPARED,
    DEFENCES,
    FIGURE_1,
    PGD_ON_SCORES,
    Column,
    OptimiserSettings,
    columns,
)

__all__ = ["PGD_ON_SCORES", "PRESETS", "TABLES", "make"]

# In the order of a plan; the paper's are 3 to 7, the probes of Figure 1 come last.
TABLES = (3, 4, 5, 6, 7, *ASIDE, FIGURE_1)
_LINES = {ABLATION: CODED_MODELS, DEFENCES: COMPARED}  # other tables: the paper's classifiers


@dataclass(frozen=True)
class _Preset:
    """Number of test images, rows in every call of the network, and how long attacks optimise."""

    limit: int | None
    batch: int
    optimiser: OptimiserSettings


_PRESETS = {
    "paper": _Preset(limit=None, batch=500, optimiser=OptimiserSettings()),
    "quick": _Preset(limit=120, batch=120, optimiser=OptimiserSettings(70, 0.05, 40)),
    # As far as the paper's thousand steps of 0.01 can go, in a fifth of the time.
    "cpu": _Preset(limit=100, batch=100, optimiser=OptimiserSettings(200, 0.05, 200)),
}
PRESETS = tuple(_PRESETS)

_NOTES = (
    "The sign attacks and L-BFGS of the paper's columns have loss='train': cross-entropy for "
    "O:SOFTMAX:CE, mean-squared error to the target vector for the others. The authors' published "
    "code leaves cross-entropy on the output units inside BIM for every model; the paper's numbers "
    "fit the training loss better, so BIM takes that one, and 'BIM, CE on units' is the other.",
    "CWL2, DeepFool and L-BFGS of the paper's columns look at the output units and stop when the "
    "largest unit is what they want, as the paper's did. CWL2 and L-BFGS return the clean image "
    "where they believe to have failed, and CWL2 gives up where its loss starts above 1e6, as in "
    "cleverhans v2.1.0. The learning rate 0.01 is that of the authors' configuration.",
    "In 'CWL2, logits' and 'DeepFool, logits' the units of O:SOFTMAX:MSE are those before softmax, "
    "as in the authors' code; their printed numbers fit the probabilities better. 'MIM, label / "
    "sum' divides the codeword by its sum, as cleverhans does to every label.",
    "Untargeted attacks of the paper's columns move away from the model's own decision, since no "
    "label was given to them; accuracy is always against the true label.",
    "The columns in class view attack the class scores, the largest of which decides, and move "
    "away from the true label. The modified CWL2 has no view: it compares distances to codewords.",
    "Epsilons are in units of pixels in [0, 1], and every image stays in that box. The paper's "
    "CIFAR-10 images were standardised, so its epsilons mean less there.",
)


def _optimiser_note(optimiser: OptimiserSettings) -> str:
    """Return a note on how long the unbounded attacks optimise, compared with the paper."""
    text = (
        f"CWL2 and the modified CWL2 take 5 x {optimiser.cw_steps} steps with learning rate "
        f"{optimiser.learning_rate:g}, L-BFGS at most 5 x {optimiser.lbfgs_steps}"
    )
    full = OptimiserSettings()
    if optimiser == full:
        return text + ", as the paper's did."
    return (
        f"{text}, where the paper's took 5 x {full.cw_steps} with {full.learning_rate:g} and "
        f"5 x {full.lbfgs_steps}: a preset for a first look."
    )


def make(
    preset: str,
    data_set: str = "digits",
    *,
    tables: Iterable[int] | None = None,
    limit: int | None = None,
    seed: int = 0,
    net: str | None = None,
    like: str | None = None,
    only: Iterable[str] | None = None,
    precision: str = "fp32",
) -> Plan:
    """Return a preset's plan for a data set.

    Args:
        preset: ``"paper"`` (all test images), ``"quick"`` (the first 120, and a tenth of the
            steps in CWL2, ModifiedCWL2 and LBFGS) or ``"cpu"`` (the first 100, a fifth of the
            steps, five times as long); the grids are the paper's in all.
        data_set: Name as ``data.load`` takes it.
        tables: Which of Tables 3 to 7, 8 (codeword lengths), 9 (other defences) and 1 (probes of
            Figure 1); all by default. Table 6 adds the cells of Table 3 that it needs.
        limit: Number of images instead of the preset's.
        seed: Seed of training, targets and random starts.
        net: Name of the network; that of the data set's training recipe by default.
        like: Known data set that `data_set` is a copy of, if it has another name.
        only: Names of the attacks to run, such as ``"PGD"``; all by default.
        precision: Precision of the networks during an attack, see ``engine.prepare``.

    Raises:
        ValueError: The preset, a table, an attack or the precision is unknown, or a number is out
            of range.

    >>> from fastrobust import presets
    >>> len(presets.make("quick", tables=[4]).cells)
    3
    """
    if preset not in _PRESETS:
        raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
    chosen = tuple(TABLES if tables is None else tables)
    if unknown := sorted(set(chosen) - set(TABLES)):
        raise ValueError(f"tables must be among {tuple(sorted(TABLES))}, got {unknown}")
    if like is not None and like not in DATA_SETS:
        raise ValueError(f"like must be one of {', '.join(DATA_SETS)}, got {like!r}")
    settings = _PRESETS[preset]
    shown = [column for column in columns(settings.optimiser) if column.table in chosen]
    cells = [cell for table in TABLES if table in chosen for cell in _cells(table, shown)]
    if 3 not in chosen:
        cells += _white_box_of(cells, columns(settings.optimiser))
    if only is not None:
        cells = _only(cells, set(only))
    return Plan(
        data_set=data_set,
        like=like,
        precision=precision,
        preset=preset,
        net=net or default_config(like or data_set, MODEL_NAMES[0]).net,
        cells=tuple(sorted(cells, key=_cost)),
        limit=settings.limit if limit is None else limit,
        seed=seed,
        batch=settings.batch,
        notes=(*_NOTES, _optimiser_note(settings.optimiser)),
    )


def _only(cells: Iterable[Cell], wanted: set[str]) -> list[Cell]:
    """Return the cells of these attacks, and those of clean images."""
    kinds = {cell: (cell.attack or "").partition("(")[0] for cell in cells}
    if unknown := sorted(wanted - set(kinds.values())):
        known = ", ".join(sorted(filter(None, set(kinds.values()))))
        raise ValueError(f"attacks must be among {known}, got {', '.join(unknown)}")
    return [cell for cell, kind in kinds.items() if not kind or kind in wanted]


def _cells(table: int, shown: Iterable[Column]) -> Iterable[Cell]:
    """Yield the cells of one table, row by row."""
    for model in _LINES.get(table, MODEL_NAMES):
        if table in (4, *ASIDE):
            yield Cell(table, printed.CLEAN, None, None, model, None)
        for column in shown:
            if column.table != table or model not in column.models:
                continue
            parameter, values = column.grid
            labels = "true" if column.view == "class" and not column.targeted else "own"
            for value in values:
                yield Cell(
                    table, column.name, parameter, value, model, repr(column.make(value)),
                    targeted=column.targeted, view=column.view, labels=labels,
                    source=column.source, probe=column.probe,
                    distances=value in column.distances and model == column.models[-1],
                )  # fmt: skip


def _white_box_of(cells: Iterable[Cell], all_columns: Iterable[Column]) -> list[Cell]:
    """Return the cells of Table 3 that transfers are made from and compared with."""
    wanted = {(cell.attack, cell.view) for cell in cells if cell.source}
    third = [column for column in all_columns if column.table == 3]
    return [cell for cell in _cells(3, third) if (cell.attack, cell.view) in wanted]


def _cost(cell: Cell) -> int:
    """Return the sort key of a cell: cheap cells come first, for a run that is stopped."""
    return 0 if cell.parsed_attack is None else cell.parsed_attack.cost
