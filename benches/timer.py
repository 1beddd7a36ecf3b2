"""Times candidates in turn (A B A B ...), so that a noisy machine disturbs all of them alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median, quantiles

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate.

    Attributes:
        name: of the candidate.
        cold: the first call, with its page faults, caches and lazy initialisation.
        seconds: every later call but the warm-up, in order.
    """

    name: str
    cold: float
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle call: what to expect."""
        return median(self.seconds)

    @property
    def best(self) -> float:
        """The fastest call: what the machine can do when left alone."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range over the median: above 0.2 the machine was busy."""
        low, _, high = quantiles(self.seconds, n=4)
        return (high - low) / self.median


def interleave(
    candidates: dict[str, Callable[[], object]],
    seconds: float = 1.0,
    least: int = 9,
    most: int = 200,
    once: Callable[[Callable[[], object]], float] | None = None,
) -> dict[str, Timing]:
    """Call every candidate once per round, in the same order, for about `seconds` in all.

    Args:
        candidates: by name; each does its whole work in one call.
        seconds: time to spend on all rounds together, after one cold and one warm-up round.
        least: rounds at least.
        most: rounds at most.
        once: calls a candidate and returns its seconds; by default by the clock, synchronized.
    """
    once = once or _once
    cold = {name: once(call) for name, call in candidates.items()}
    warm = sum(once(call) for call in candidates.values())
    rounds = max(least, min(most, int(seconds / max(warm, 1e-9))))
    taken = turns(candidates, rounds, once)
    return {name: replace(timing, cold=cold[name]) for name, timing in taken.items()}


def turns(
    candidates: dict[str, Callable[[], object]],
    rounds: int,
    once: Callable[[Callable[[], object]], float] | None = None,
) -> dict[str, Timing]:
    """Call every candidate once per round, in the same order; the first round is the cold one too.

    Args:
        candidates: by name; each does its whole work in one call.
        rounds: how many, 2 at least for a ratio's quartiles.
        once: as in :func:`interleave`.
    """
    once = once or _once
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            taken[name].append(once(call))
    return {name: Timing(name, all_of[0], tuple(all_of)) for name, all_of in taken.items()}


def ratio(slower: Timing, faster: Timing) -> tuple[float, float, float]:
    """How many times longer `slower` takes, round by round: median, then both quartiles."""
    low, middle, high = quantiles(
        (a / b for a, b in zip(slower.seconds, faster.seconds, strict=True)), n=4
    )
    return middle, low, high


def _once(call: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
