"""Philox4x32-10, the counter-based random generator behind codebooks, targets and random starts.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A word depends
on its key and counter alone, so batches, order and scheduling never change a random number. The
kernels hold the same arithmetic in ``csrc/rows/philox.h``.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def philox4x32(counter: ArrayLike, key: ArrayLike) -> NDArray[np.uint32]:
    """Return the four random words of every counter.

    Args:
        counter: (..., 4) unsigned 32-bit integers.
        key: (..., 2) unsigned 32-bit integers, broadcast against `counter`.

    Returns:
        (..., 4) uint32.

    Example:
        >>> [hex(word) for word in philox4x32([0, 0, 0, 0], [0, 0])]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key, np.uint64), -1, 0)
    for _ in range(10):
        first, second = c0 * np.uint64(_MULTIPLIERS[0]), c2 * np.uint64(_MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ k0,
            second & np.uint64(_MASK),
            (first >> np.uint64(32)) ^ c3 ^ k1,
            first & np.uint64(_MASK),
        )
        k0 = (k0 + np.uint64(_WEYL[0])) & np.uint64(_MASK)
        k1 = (k1 + np.uint64(_WEYL[1])) & np.uint64(_MASK)
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), -1).astype(np.uint32)


def split(value: int) -> tuple[int, int]:
    """Return the low and the high 32-bit word of a 64-bit integer (a seed, an image's index)."""
    return value & _MASK, (value >> 32) & _MASK


def symmetric_uniform(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Map random words to [-1, 1): the upper 24 bits, so that float32 holds every value exactly."""
    return ((words >> np.uint32(8)).astype(np.float64) * 2.0**-23 - 1.0).astype(np.float32)
