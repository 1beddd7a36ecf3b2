"""Processes that share a list of work, for networks too small to use several threads well.

The calling process works too, also while the others start.
"""

import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from . import malloc

T = TypeVar("T")
_spawn = multiprocessing.get_context("spawn")  # a fork would share torch's threads


class Turns:
    """Deals the items of one list to several processes, each item to one of them."""

    def __init__(self) -> None:
        self._next = _spawn.Value("q", 0)

    def of(self, items: Sequence[T]) -> Iterator[T]:
        """Yield an item whenever this process is ready for it, until all are dealt."""
        while True:
            with self._next.get_lock():
                index = self._next.value
                self._next.value += 1
            if index >= len(items):
                return
            yield items[index]


@contextmanager
def helpers(jobs: int, work: Callable[..., None], *arguments: Any) -> Iterator[Turns]:
    """Start processes that share a list of work with this one, and wait for them at the end.

    Args:
        jobs: Number of processes, this one included, so jobs - 1 are started.
        work: A function of a module, called with the turns and `arguments`.
        *arguments: Anything that can be pickled.

    Yields:
        The turns, for the items that this process takes.

    Warns:
        UserWarning: A process has crashed. The items that it took may be undone.
    """
    turns = Turns()
    threads = max(1, torch.get_num_threads() // jobs)
    processes = [
        _spawn.Process(target=_start, args=(threads, work, turns, *arguments))
        for _ in range(jobs - 1)
    ]
    for process in processes:
        process.start()
    yield turns
    for process in processes:
        process.join()
    if crashed := [process.exitcode for process in processes if process.exitcode]:
        warnings.warn(
            f"{len(crashed)} of {len(processes)} helper processes crashed (exit codes "
            f"{', '.join(map(str, crashed))}); this process does what they left undone",
            UserWarning,
            stacklevel=3,
        )


def _start(threads: int, work: Callable[..., None], turns: Turns, *arguments: Any) -> None:
    """Run in the new process."""
    malloc.keep_freed_memory()
    torch.set_num_threads(threads)
    work(turns, *arguments)
