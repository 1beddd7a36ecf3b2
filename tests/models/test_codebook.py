import hashlib

import numpy as np
import pytest
import torch

import fastrobust as fr
from fastrobust.ops.philox import philox4x32

# 2^23 times the vectors of Codebook.random(3, 5, "secret"): any change breaks every checkpoint's
# key for ever.
GOLDEN = [
    [-4869892, 7625611, -6901664, 5779971, 789269],
    [-6556652, 6814342, -29531, 1952042, -5604709],
    [-7033267, -4662586, 1391583, -7590898, -8250535],
]


def test_golden_vectors_hold_for_ever():
    book = fr.Codebook.random(num_classes=3, length=5, key="secret")
    assert (book.vectors * 2**23).int().tolist() == GOLDEN


def test_vectors_follow_the_published_recipe():
    book = fr.Codebook.random(num_classes=10, length=128, key="öffne")
    seed = [
        int.from_bytes(hashlib.sha256("öffne".encode()).digest()[i : i + 4], "little")
        for i in range(0, 16, 4)
    ]
    words = [philox4x32([i, 0, *seed[2:]], seed[:2]) for i in range(10 * 128 // 4)]
    expected = (np.concatenate(words) >> 8).astype(np.float64) * 2.0**-23 - 1
    assert np.array_equal(book.vectors.numpy().reshape(-1), expected.astype(np.float32))


def test_vectors_fill_the_cube_evenly():
    values = fr.Codebook.random(100, 1000, key="even").vectors
    assert values.min() >= -1 and values.max() < 1
    # Mean 0, variance 1/3; 1e5 draws: five standard errors.
    assert abs(values.mean()) < 5 * (1 / 3e5) ** 0.5
    assert abs(values.var() - 1 / 3) < 5 * ((1 / 5 - 1 / 9) / 1e5) ** 0.5


def test_keys_lengths_and_classes():
    a, b = fr.Codebook.random(key="a"), fr.Codebook.random(key="b")
    assert not torch.equal(a.vectors, b.vectors)
    assert torch.equal(a.vectors, fr.Codebook.random(key="a").vectors)
    # Rows follow one another in one stream, so more classes keep the first ones.
    assert torch.equal(fr.Codebook.random(20, 128, "a").vectors[:10], a.vectors)
    assert a.vectors.shape == (10, 128) and a.vectors.dtype == torch.float32
    assert torch.equal(fr.Codebook.one_hot(4).vectors, torch.eye(4))


def test_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    fr.Codebook.random(key="x")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("vectors", "error", "words"),
    [
        (torch.zeros(3), ValueError, "shape"),
        (torch.zeros(0, 4), ValueError, "shape"),
        (torch.zeros(2, 4), ValueError, "1 different rows for 2"),
        (torch.tensor([[0.0], [float("nan")]]), ValueError, "finite"),
        (torch.eye(3).double(), TypeError, "float64"),
        ([[1.0]], TypeError, "list"),
    ],
)
def test_bad_vectors(vectors, error, words):
    with pytest.raises(error, match=words):
        fr.Codebook(vectors)


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0)])
def test_bad_sizes(arguments):
    with pytest.raises(ValueError, match=">= 1"):
        fr.Codebook.random(*arguments)
