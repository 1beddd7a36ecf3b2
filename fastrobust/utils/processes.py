"""Processes side by side: how networks too small to share their layers use all cores."""

import multiprocessing
import multiprocessing.context
from collections.abc import Callable, Iterator, Sequence
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
                place = self._next.value
                self._next.value += 1
            if place >= len(items):
                return
            yield items[place]


def helpers_on(
    jobs: int, work: Callable[..., None], *arguments: Any
) -> list[multiprocessing.context.SpawnProcess]:
    """Start processes that share a piece of work with this one.

    Args:
        jobs: Number of processes, this one included, so jobs - 1 are started.
        work: A function of a module, called with `arguments`; :class:`Turns` among them deal.
        *arguments: Anything that can be pickled.

    Returns:
        The processes, to be joined.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    call = (threads, work, *arguments)
    helpers = [_spawn.Process(target=_apart, args=call) for _ in range(jobs - 1)]
    for helper in helpers:
        helper.start()
    return helpers


def _apart(threads: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run in a process of its own."""
    malloc.keep_freed_memory()
    torch.set_num_threads(threads)
    work(*arguments)
