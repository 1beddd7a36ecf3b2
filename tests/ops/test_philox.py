import numpy as np
import pytest

from fastrobust.ops.philox import philox4x32, split, symmetric_uniform


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # known answers of Random123 (kat_vectors, philox4x32 10), Salmon et al. 2011
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers(counter, key, words):
    assert philox4x32(counter, key).tolist() == words


def test_a_batch_is_its_rows():
    counters = np.random.default_rng(0).integers(0, 2**32, (31, 4), dtype=np.uint64)
    keys = np.random.default_rng(1).integers(0, 2**32, (31, 2), dtype=np.uint64)
    batch = philox4x32(counters, keys)
    assert batch.dtype == np.uint32
    for counter, key, words in zip(counters, keys, batch, strict=True):
        assert (philox4x32(counter, key) == words).all()


def test_split_and_uniform_are_exact():
    assert split(2**40 + 7) == (7, 256)
    words = np.array([0, 2**32 - 1, 2**31], np.uint32)
    assert symmetric_uniform(words).tolist() == [-1.0, 1 - 2.0**-23, 0.0]
