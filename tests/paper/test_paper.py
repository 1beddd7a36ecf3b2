import json
from collections import Counter
from importlib import resources

import pytest

from fastrobust.paper import printed as paper


def records():
    content = json.loads(resources.files("fastrobust.paper").joinpath("tables.json").read_text())
    return content["rows"]


def test_all_numbers_are_there():
    count = Counter()
    for record in records():
        assert len(record["values"]) == len(record["results"])
        count[record["table"]] += len(record["results"])
    assert count == {3: 216, 4: 9, 5: 216, 6: 18, 7: 24}
    assert all(0 <= result <= 1 for record in records() for result in record["results"])


# Read from the printed tables by eye, one from each block.
@pytest.mark.parametrize(
    ("key", "printed"),
    [
        ((3, "cifar10", "O:SOFTMAX:CE", "CWL2", 0.01), 0.022),
        ((3, "mnist", "R:TANH:MSE", "MIM", 0.2), 0.973),
        ((3, "fashion_mnist", "O:SOFTMAX:MSE", "DeepFool", 40), 0.056),
        ((3, "fashion_mnist", "R:TANH:MSE", "Madry", 0.1), 0.802),
        ((4, "cifar10", "R:TANH:MSE", "clean", None), 0.930),
        ((5, "mnist", "O:SOFTMAX:CE", "MIM", 0.1), 0.908),
        ((5, "cifar10", "R:TANH:MSE", "L-BFGS", 10), 0.564),
        ((5, "fashion_mnist", "O:SOFTMAX:CE", "FGSM", 0.4), 0.109),
        ((6, "mnist", "R:TANH:MSE", "DeepFool", 10), 0.973),
        ((7, "fashion_mnist", "R:TANH:MSE", "modified CWL2", 1.0), 0.829),
    ],
)
def test_lookup(key, printed):
    assert paper.lookup(*key) == printed


@pytest.mark.parametrize(
    "key",
    [
        (3, "digits", "R:TANH:MSE", "MIM", 0.2),
        (3, "mnist", "R:TANH:MSE", "MIM", 0.3),
        (3, "mnist", "R:TANH:MSE", "PGD", 0.1),
        (5, "mnist", "O:LINEAR:MSE", "MIM", 0.1),
    ],
)
def test_nothing_printed(key):
    assert paper.lookup(*key) is None


def test_grids():
    assert paper.grid(3, "Madry") == ("eps", (0.02, 0.04, 0.08, 0.1))
    assert paper.grid(3, "DeepFool") == ("max_steps", (10, 20, 30, 40))
    with pytest.raises(ValueError, match="column of the paper, got 3 and Square"):
        paper.grid(3, "Square")
