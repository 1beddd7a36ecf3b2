"""Processes side by side: how networks too small to share their layers use all cores."""

import multiprocessing
import multiprocessing.context
from collections.abc import Callable
from typing import Any

import torch

from . import allocator


def helpers_on(
    jobs: int, work: Callable[..., None], *arguments: Any
) -> list[multiprocessing.context.SpawnProcess]:
    """Start processes that share a piece of work with this one.

    Args:
        jobs: Number of processes, this one included, so jobs - 1 are started.
        work: A function of a module, called with `arguments`.
        *arguments: The last one is a sequence: helper n of 1..jobs-1 gets ``[n::jobs]`` of it, and
            ``[::jobs]`` is left for this process.

    Returns:
        The processes, to be joined.
    """
    *common, shared = arguments
    spawn = multiprocessing.get_context("spawn")  # a fork would share torch's threads
    threads = max(1, torch.get_num_threads() // jobs)
    helpers = []
    for n in range(1, jobs):
        if share := shared[n::jobs]:
            helpers.append(spawn.Process(target=_apart, args=(threads, work, *common, share)))
            helpers[-1].start()
    return helpers


def _apart(threads: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run in a process of its own."""
    allocator.keep_freed_memory()
    torch.set_num_threads(threads)
    work(*arguments)
