"""The numbers of the run folders, for ``summary.py``."""

import csv
from dataclasses import dataclass
from pathlib import Path

from fastrobust.evaluation import files
from fastrobust.train.classifiers import MODEL_NAMES

HERE = Path(__file__).parent
# The run folders of each data set, the one with the most images first.
RUNS = {
    "mnist": ("mnist-500", "mnist"),
    "fashion_mnist": ("fashion_mnist-500", "fashion_mnist"),
    "cifar10": ("cifar10",),
}
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10 (JPEG copy)"}
NEAR = 0.1  # a difference to the paper that is no surprise


@dataclass(frozen=True)
class Measured:
    """One measured number: a line of ``tables.csv``."""

    run: str
    table: int
    model: str
    column: str
    view: str
    source: str
    value: float | None
    rate: float
    low: float
    high: float
    images: int
    paper: float | None
    false_claims: float
    marks: str
    seconds: float
    naive: int
    executed: int
    key: tuple[str, ...]

    @property
    def text(self) -> str:
        """Rate and interval."""
        return f"{self.rate:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def surprising(self) -> bool:
        """Whether the paper's number lies outside the interval and differs by more than NEAR."""
        if self.paper is None:
            return False
        return abs(self.rate - self.paper) > NEAR and not self.low <= self.paper <= self.high


def read(run: str) -> list[Measured]:
    """Return the numbers of a run folder; none if there is no such folder yet."""
    path = HERE / run / "tables.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [_row(run, line) for line in csv.DictReader(file)]


def _row(run: str, line: dict[str, str]) -> Measured:
    def number(name: str) -> float | None:
        return float(line[name]) if line[name] else None

    return Measured(
        run=run,
        table=int(line["table"]),
        model=line["model"],
        column=line["column"],
        view=line["view"],
        source=line["source"],
        value=number("value"),
        rate=float(line["rate"]),
        low=float(line["low"]),
        high=float(line["high"]),
        images=int(line["images"]),
        paper=number("paper"),
        false_claims=float(line["false_claims"]),
        marks=line["marks"],
        seconds=float(line["seconds"]),
        naive=int(line["naive"] or 0),
        executed=int(line["executed"] or 0),
        key=tuple(line[name] for name in ("attack", "model", "source", "targeted", "labels")),
    )


def lookup(data_set: str, **wanted: object) -> Measured | None:
    """Return the number with these values from the run with the most images."""
    for run in RUNS[data_set]:
        for row in CELLS[run]:
            if all(getattr(row, name) == value for name, value in wanted.items()):
                return row
    return None


def evaluations(data_set: str) -> list[files.StoredEvaluation]:
    """Return the evaluations of a data set's classifiers."""
    return [stored for run in RUNS[data_set] for stored in files.read(HERE / run, MODEL_NAMES)]


CELLS = {run: read(run) for runs in RUNS.values() for run in runs}
