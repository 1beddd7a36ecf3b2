import pytest
import torch

from fastrobust.utils import checks

X = torch.rand(3, 1, 2, 2)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([1.0], TypeError, "got list"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), TypeError, r"float\(\) / 255"),
        (torch.zeros(3), ValueError, r"got \(3,\)"),
        (X * float("nan"), ValueError, "finite"),
        (X / 0, ValueError, "finite"),
    ],
)
def test_images(x, error, words):
    with pytest.raises(error, match=words):
        checks.images(x)


@pytest.mark.parametrize(
    ("y", "error", "words"),
    [
        ([0, 1, 2], TypeError, "got list"),
        (torch.zeros(3), TypeError, "float32"),
        (torch.zeros(3, dtype=torch.bool), TypeError, "bool"),
        (torch.zeros(3, 1, dtype=torch.int64), ValueError, r"\(3,\), one per image, got \(3, 1\)"),
        (torch.tensor([0, 1, 4]), ValueError, r"\[0, 4\), got 0 to 4"),
        (torch.tensor([0, 1, -1]), ValueError, "got -1 to 1"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), RuntimeError, "like the images"),
    ],
)
def test_labels(y, error, words):
    with pytest.raises(error, match=words):
        checks.labels(y, 3, 4, torch.device("cpu"))


def test_labels_become_int64():
    assert checks.labels(torch.tensor([1, 2], dtype=torch.uint8), 2, 4, X.device).dtype == (
        torch.int64
    )


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-0.1, ValueError, "got -0.1"),
        (float("nan"), ValueError, "got nan"),
        (torch.zeros(2), ValueError, r"shape \(3,\), got \(2,\)"),
        (torch.tensor([0.0, -1.0, 0.0]), ValueError, "every row"),
        (torch.zeros(3, device="meta"), RuntimeError, "must be on cpu, got meta"),
    ],
)
def test_per_row(value, error, words):
    with pytest.raises(error, match=words):
        checks.per_row(value, X, "eps")


def test_per_row_broadcasts_a_number():
    assert checks.per_row(0.5, X.double(), "eps").tolist() == [0.5] * 3
    assert checks.per_row(torch.tensor(0.5), X, "eps").tolist() == [0.5] * 3
