"""Seconds of GPU work by events, from a cold L2, and the bandwidth that a copy reaches."""

from collections.abc import Callable
from statistics import median

import torch

_AHEAD = 1_000_000  # clock cycles, some half a millisecond: longer than launching a few kernels


class ColdTimer:
    """Times a call on the device from a cold L2; an instance is the `once` of `interleave`.

    Before the call a buffer twice as large as the L2 is written, and the device is kept waiting
    while the kernels are queued, so that the time between the events is the device's, not that of
    Python's launches. What waits for the device inside (a ``.item()``, some of torch.linalg) is
    timed with its waits.
    """

    def __init__(self) -> None:
        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        self._buffer = torch.empty(max(2 * l2, 1 << 20), dtype=torch.uint8, device="cuda")

    def __call__(self, call: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._buffer.zero_()
        torch.cuda._sleep(_AHEAD)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3


def copy_bandwidth(timer: Callable[[Callable[[], object]], float], size: int = 1 << 30) -> float:
    """Bytes a second, read and written, that a ``copy_`` of `size` bytes reaches: the floor."""
    source = torch.zeros(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = [timer(lambda: target.copy_(source)) for _ in range(12)]
    return 2 * size / median(seconds[2:])
