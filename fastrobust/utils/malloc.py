"""The C allocator's habits, for a process that is ours: the command line, never an import."""

import ctypes

# https://man7.org/linux/man-pages/man3/mallopt.3.html
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let glibc keep what a network frees instead of giving the pages back to the kernel.

    Every step of an attack frees and asks for the same activations, and faulting their pages in
    again costs a small network a quarter of its time (benches/bench_allocator.py).

    Returns:
        Whether the allocator took it: False with another C library, where nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the largest value that glibc takes
    return bool(taken and mallopt(_M_TRIM_THRESHOLD, 1 << 30))
