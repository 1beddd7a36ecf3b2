"""The weights that come with the package."""

from importlib import resources

import pytest
import torch

import fastrobust as fr
from fastrobust.models import checkpoint
from fastrobust.train.classifiers import MODEL_NAMES
from fastrobust.utils.text import slug

DATA_SETS = {"mnist": (1, 28), "fashion_mnist": (1, 28), "cifar10": (3, 32)}


@pytest.mark.parametrize("model_name", MODEL_NAMES)
@pytest.mark.parametrize("data_set", DATA_SETS)
def test_all_nine_classifiers_come_with_the_package(data_set, model_name):
    model = fr.models.pretrained(data_set, model_name)
    channels, size = DATA_SETS[data_set]
    x = torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0))
    assert model(x).shape == (3, 10)
    assert not any(module.training for module in model.modules())
    file = f"{slug(model_name)}.safetensors"
    path = resources.files("fastrobust.models") / "weights" / data_set / file
    facts = checkpoint.read_facts(path)
    assert facts["model_name"] == model_name
    assert data_set.split("1")[0] in facts["data_set"]
    assert path.stat().st_size <= 3 * 2**20


def test_codewords_of_other_lengths_too():
    model = fr.models.pretrained("mnist", "R:TANH:MSE:64")
    assert model.head.vectors.shape == (10, 64)


@pytest.mark.parametrize(
    ("data_set", "model_name"),
    [("digits", "O:SOFTMAX:CE"), ("mnist", "O:LINEAR:MSE"), ("mnist", "../x"), ("", "")],
)
def test_what_is_not_there_is_said_with_what_is(data_set, model_name):
    with pytest.raises(ValueError, match="must name weights that come with the package .*mnist/"):
        fr.models.pretrained(data_set, model_name)
