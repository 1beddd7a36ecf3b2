"""Does the work of a sweep, piece by piece, and keeps the account of one process."""

import traceback
from collections.abc import Callable

from ..runs.bisection import next_probe
from ..runs.plan import Cell
from ..utils.progress import Tracker
from .collect import Measurement
from .measure import judge, measure
from .tasks import Task, Work, visits


class Worker:
    """Does units of work and keeps the account of one process.

    Attributes:
        failed: A line per cell that failed, by its key.
    """

    def __init__(self, work: Work, progress: Tracker) -> None:
        self.failed: dict[str, str] = {}
        self._work, self._progress = work, progress
        self._advanced: set[str] = set()

    def do(self, unit: list[Task]) -> None:
        """Measure the cells of a unit that are missing, all together or as a search asks."""
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
        """Judge the stored images of another classifier."""
        cell = task.cell
        same = (cell.source, None, cell.attack, cell.targeted, cell.labels)
        source = next(
            (
                other.key
                for other in self._work.tasks
                if (other.cell.model, other.cell.source, other.cell.attack, other.cell.targeted,
                    other.cell.labels) == same
            ),
            None,
        )  # fmt: skip

        def found() -> None:
            if source is None:
                raise ValueError(
                    f"a plan must have {cell.attack} on {cell.source} itself for others "
                    "to be judged on its images, got no such cell"
                )
            folder, subject = self._work.folder, self._work.subjects[cell.model]
            stored = folder.read(source)
            images = folder.read_images(source)
            given = Measurement(stored.rows, stored.facts, images)
            self._write(task, judge(cell, subject, given))

        if not self._done(task):
            self._try([task], found)
            self._progress.advance(self._images(task))

    def _measure(self, unit: list[Task]) -> None:
        """Measure cells together; if that fails, each by itself, so that one costs no other."""
        missing = [task for task in unit if not self._done(task)]
        if not missing:
            return
        tasks = {task.cell: task for task in missing}
        first = missing[0]
        subject = self._work.subjects[first.cell.model]
        waiting = len(missing) * len(subject)

        def advance(rows: int) -> None:
            nonlocal waiting
            waiting -= rows
            self._progress.advance(rows)

        def together() -> None:
            measure(
                list(tasks), subject, lambda cell, found: self._write(tasks[cell], found), advance,
                first_success=first.first_success, keep=first.keep, savings=self._work.savings,
            )  # fmt: skip

        self._advanced.update(task.key for task in missing)
        if self._try(missing, together, whole=len(missing) == 1) or len(missing) == 1:
            self._progress.advance(waiting)
            return
        for task in missing:
            if not self._work.folder.has(task.key):
                self._measure([task])

    def _done(self, task: Task) -> bool:
        """Say whether a cell is there, or has failed here; a damaged file fails."""
        if task.key in self.failed:
            return True
        if not self._work.folder.has(task.key):
            return False
        if task.key not in self._advanced:
            self._advanced.add(task.key)
            self._progress.advance(self._images(task))
            self._try([task], lambda: self._work.folder.read(task.key))
        return True

    def _try(self, tasks: list[Task], work: Callable[[], object], whole: bool = True) -> bool:
        """Do something for some cells; a failure is written down, if it is theirs alone."""
        words = _words(tasks[0].cell)
        self._progress.note(words)
        try:
            work()
        except Exception as error:  # one cell must not cost the others
            if whole:
                reason = f"{type(error).__name__}: {error}"
                self.failed[tasks[0].key] = f"{words}: {reason}"
                self._work.folder.note_failure(
                    tasks[0].key,
                    attack=tasks[0].cell.attack,
                    model=tasks[0].cell.model,
                    error=reason,
                    traceback=traceback.format_exc(),
                )
            return False
        return True

    def _write(self, task: Task, found: Measurement) -> None:
        facts = {**task.description, **found.facts}
        self._work.folder.write(task.key, found.rows, facts, found.images)

    def _images(self, task: Task) -> int:
        return len(self._work.subjects[task.cell.model])


def _words(cell: Cell) -> str:
    where = f"{cell.source} for {cell.model}" if cell.source else cell.model
    return f"{cell.attack or 'clean images'} on {where}"
