"""Runs a plan: measures and writes every cell that the run folder does not hold yet.

Groups of cells are measured together (``measure.py``; ``work.py`` says which). A cell is written
when its last row is done; a cell that fails is noted and the others go on; a kill loses only the
cells under way.
"""

import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..runs.bisection import next_probe
from ..runs.context import RunContext
from ..runs.plan import Cell, Plan
from ..utils.processes import Turns, helpers
from ..utils.progress import Tracker, track
from .collect import Measurement
from .measure import measure, measure_transfer
from .options import SweepOptions
from .work import SweepWork, Task, identity, load_work, visits


@dataclass
class Outcome:
    """The result of one start of a sweep.

    Attributes:
        measured: Number of cells measured by this start.
        reused: Number of cells that the run folder held before.
        failed: One line per cell that failed, naming it.
    """

    measured: int = 0
    reused: int = 0
    failed: list[str] = field(default_factory=list)


def run(
    plan: Plan,
    out_dir: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    jobs: int = 1,
    without: Sequence[str] = (),
) -> Outcome:
    """Measure every cell of `plan` that `out_dir` does not hold yet.

    The classifiers are the checkpoints under ``<out_dir>/models/``. Several processes may work on
    one folder, and a run that was killed goes on where it stopped, with the same results.

    Args:
        plan: What to measure.
        out_dir: The run folder.
        data_root: Where the data files are, as ``data.load`` takes it.
        device: Where to compute.
        jobs: Number of processes that share the cells; more than one start new interpreters, so a
            script that asks for them needs its ``if __name__ == "__main__"``.
        without: Optimisations to disable: ``"first-success"``, ``"shared-const"``, ``"prefixes"``,
            ``"clean-gradient"``. None of them changes a rate; the first one gives up distances.

    Raises:
        FileNotFoundError: A checkpoint or a data file is missing.
        StoreError: The folder holds another run, or a damaged run.json.
        ValueError: There is no optimisation of that name, or the plan's precision does not suit a
            classifier or this machine.

    Warns:
        UserWarning: A process crashed; its cells are measured by this one.
    """
    context, options = RunContext(plan, out_dir, data_root, device), SweepOptions.without(without)
    work = load_work(context, options)
    before = {task.key for task in work.tasks if work.folder.has(task.key)}
    with track(work.total, "attacked images") as progress:
        worker = Worker(work, progress)
        with helpers(jobs, _help, context, options) as turns:
            for unit in turns.of(work.units):
                worker.measure_unit(unit)
        # Count the cells that the helpers measured, and measure those that a crash left undone.
        for unit in work.units:
            worker.measure_unit(unit)
        for task in work.tasks:
            if task.cell.source is not None:
                worker.transfer(task)
    done = {task.key for task in work.tasks if work.folder.has(task.key)}
    reused = (done & before) - worker.failed.keys()
    return Outcome(len(done - before), len(reused), list(worker.failed.values()))


def _help(turns: Turns, context: RunContext, options: SweepOptions) -> None:
    """Measure units in a helper process, silently."""
    work = load_work(context, options)
    with open(os.devnull, "w") as silence, track(work.total, "", silence) as progress:
        worker = Worker(work, progress)
        for unit in turns.of(work.units):
            worker.measure_unit(unit)


class Worker:
    """Measures cells and writes them; notes those that fail.

    Attributes:
        failed: A line per cell that failed, by its key.
    """

    def __init__(self, work: SweepWork, progress: Tracker) -> None:
        self.failed: dict[str, str] = {}
        self._work, self._progress = work, progress
        self._counted: set[str] = set()  # keys of the cells whose images the progress has counted

    def measure_unit(self, unit: list[Task]) -> None:
        """Measure the cells of a unit that are missing: all together, or by bisection."""
        if not unit[0].cell.probe:
            self._measure(unit)
            return
        rates: dict[float, float] = {}
        by_value = {float(task.cell.value or 0): task for task in unit}
        while (value := next_probe(by_value, rates)) is not None:
            task = by_value[value]
            self._measure([task])
            if task.key in self.failed:
                return
            rates[value] = float(self._work.folder.read(task.key).rows["success"].mean())
        self._progress.advance(max(0, visits(unit) - len(rates)) * self._images(unit[0]))

    def transfer(self, task: Task) -> None:
        """Measure a cell from the stored images of another classifier."""
        if self._is_settled(task):
            return
        cell, folder = task.cell, self._work.folder
        wanted = identity(cell, cell.source)
        tasks = (other for other in self._work.tasks if other.cell.source is None)
        key = next((t.key for t in tasks if identity(t.cell, t.cell.model) == wanted), None)
        self._progress.note(_description(cell))
        try:
            if key is None:
                raise ValueError(
                    f"a plan must have {cell.attack} on {cell.source} itself for a transfer of its "
                    "images, got no such cell"
                )
            stored = folder.read(key)
            source = Measurement(stored.rows, stored.facts, folder.read_images(key))
            self._write(task, measure_transfer(cell, self._work.testbeds[cell.model], source))
        except Exception as error:  # one cell must not cost the others
            self._note_failure(task, error)
        self._progress.advance(self._images(task))

    def _measure(self, tasks: list[Task]) -> None:
        """Measure cells together; if that fails, each by itself, so that one costs no other."""
        missing = [task for task in tasks if not self._is_settled(task)]
        if not missing:
            return
        by_cell, first = {task.cell: task for task in missing}, missing[0]
        self._counted.update(task.key for task in missing)
        self._progress.note(_description(first.cell))
        left = len(missing) * self._images(first)
        try:
            for rows, completed in measure(
                list(by_cell), self._work.testbeds[first.cell.model],
                first_success=first.first_success, keep=first.keep, options=self._work.options,
            ):  # fmt: skip
                for cell, measurement in completed.items():
                    self._write(by_cell[cell], measurement)
                self._progress.advance(rows)
                left -= rows
            return
        except Exception as error:  # one cell must not cost the others
            if len(missing) == 1:
                self._note_failure(first, error)
                self._progress.advance(left)
                return
        for task in missing:
            if not self._work.folder.has(task.key):
                self._measure([task])

    def _is_settled(self, task: Task) -> bool:
        """Whether a cell is in the folder, or has failed here; a damaged file is a failure."""
        if task.key in self.failed:
            return True
        if not self._work.folder.has(task.key):
            return False
        if task.key not in self._counted:
            self._counted.add(task.key)
            self._progress.advance(self._images(task))
            try:
                self._work.folder.read(task.key)
            except Exception as error:
                self._note_failure(task, error)
        return True

    def _note_failure(self, task: Task, error: Exception) -> None:
        """Note the exception under way."""
        reason = f"{type(error).__name__}: {error}"
        self.failed[task.key] = f"{_description(task.cell)}: {reason}"
        self._work.folder.note_failure(
            task.key,
            attack=task.cell.attack,
            model=task.cell.model,
            error=reason,
            traceback=traceback.format_exc(),
        )

    def _write(self, task: Task, measurement: Measurement) -> None:
        facts = {**task.description, **measurement.facts}
        self._work.folder.write(task.key, measurement.rows, facts, measurement.images)

    def _images(self, task: Task) -> int:
        return len(self._work.testbeds[task.cell.model])


def _description(cell: Cell) -> str:
    """Return a cell in words."""
    models = f"{cell.source} for {cell.model}" if cell.source else cell.model
    return f"{cell.attack or 'clean images'} on {models}"
