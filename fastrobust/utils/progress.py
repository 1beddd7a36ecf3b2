"""Progress of long work: a bar on a terminal, plain lines everywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 5.0  # a log of an hour has less than a thousand lines


class Tracker(Protocol):
    """Shows the progress of some work."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""

    def note(self, text: str) -> None:
        """Show in a few words what is being done."""


class _Bar:
    """A bar that rich draws."""

    def __init__(self, progress: Progress, total: int, description: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, note="")

    def advance(self, n: int = 1) -> None:
        self._progress.advance(self._task, n)

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)


class _Lines:
    """Prints a line every few seconds, and one at the end."""

    def __init__(self, stream: TextIO, total: int, description: str) -> None:
        self._stream, self._total, self._description = stream, total, description
        self._done, self._note = 0, ""
        self._start = self._last = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self._done += n
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self.line()

    def note(self, text: str) -> None:
        self._note = text

    def line(self) -> None:
        self._last = time.monotonic()
        seconds = self._last - self._start
        words = [f"{self._description}: {self._done}/{self._total}, {seconds:.0f} s", self._note]
        print(", ".join(filter(None, words)), file=self._stream, flush=True)


@contextmanager
def track(total: int, description: str, stream: TextIO | None = None) -> Iterator[Tracker]:
    """Show the progress of some work, on stderr to leave stdout to results.

    Args:
        total: Number of units of work.
        description: The work in two or three words.
        stream: Where to write, stderr by default.

    >>> import sys
    >>> from fastrobust.utils.progress import track
    >>> with track(2, "count", stream=sys.stdout) as progress:
    ...     for n in range(2):
    ...         progress.note(f"number {n}")
    ...         progress.advance()
    count: 2/2, 0 s, number 1
    """
    stream = stream or sys.stderr
    if stream.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        with Progress(*columns, console=Console(file=stream)) as progress:
            yield _Bar(progress, total, description)
        return
    lines = _Lines(stream, total, description)
    try:
        yield lines
    finally:
        lines.line()
