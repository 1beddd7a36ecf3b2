import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastrobust as fr
from fastrobust.models.classifier import as_classifier
from fastrobust.utils.modules import evaluating

BOOK = fr.Codebook.random(10, 16, key="test")


def linear(outputs, dtype=torch.float32):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, outputs)).to(dtype)


def images(n=7, dtype=torch.float32):
    return torch.rand(n, 3, 2, 2, dtype=dtype)


def test_scores_decide_for_the_nearest_codeword():
    model = fr.Classifier(linear(16), fr.heads.Codeword(BOOK))
    x = images(129)
    u, y = model.units(x).detach().double().numpy(), BOOK.vectors.double().numpy()
    squared = ((u[:, None] - y[None]) ** 2).sum(-1)
    assert np.array_equal(model.predict(x), squared.argmin(1))
    assert np.array_equal(model(x).argmax(1), squared.argmin(1))
    # Differences of scores are differences of squared distances over -2 T, T = d / 12.
    scores = model(x).detach().double().numpy()
    expected = (squared[:, :1] - squared) / (2 * 16 / 12)
    assert np.allclose(scores - scores[:, :1], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "width", "units"),
    [
        (fr.heads.Softmax("ce"), 10, lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)),
        (fr.heads.Softmax("mse"), 10, lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)),
        (fr.heads.Linear(), 10, lambda z: z),
        (fr.heads.Codeword(BOOK), 16, np.tanh),
    ],
    ids=["ce", "mse", "linear", "codeword"],
)
def test_units_and_training_loss(head, width, units):
    z = torch.randn(31, width, dtype=torch.float64)
    y = torch.arange(31) % 10
    u = units(z.numpy())
    assert np.allclose(head.units(z), u, atol=1e-12)
    targets = np.eye(10) if head.vectors is None else head.vectors.double().numpy()
    if head.training_loss == "ce":
        expected = -np.log(u[np.arange(31), y])
    else:
        expected = ((u - targets[y]) ** 2).mean(1)
    assert np.allclose(head.loss(z, y), expected, atol=1e-12)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: head.loss(z, y), z)
    assert torch.autograd.gradcheck(head.scores, z)


def test_normalisation_lives_inside():
    net, x = linear(10), images()
    model = fr.Classifier(net, fr.heads.Softmax(), normalize=([0.1, 0.2, 0.3], [1.0, 2.0, 4.0]))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    by_hand = (x - mean.reshape(1, 3, 1, 1)) / std.reshape(1, 3, 1, 1)
    assert torch.equal(model(x), net(by_hand))
    grey = fr.Classifier(net, fr.heads.Softmax(), normalize=(0.5, 0.25))
    assert torch.equal(grey(x), net((x - 0.5) / 0.25))


def test_predict_is_in_eval_mode_and_leaves_every_flag():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.BatchNorm1d(12), nn.Linear(12, 10))
    model = fr.Classifier(net, fr.heads.Softmax())
    net[2].eval()
    flags = [m.training for m in model.modules()]
    running = net[2].running_mean.clone()
    x = images(64)
    first, second = model.predict(x), model.predict(x)
    assert torch.equal(first, second)
    assert flags == [m.training for m in model.modules()]
    assert torch.equal(running, net[2].running_mean)
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert flags == [m.training for m in model.modules()]


def test_ties_go_to_the_lowest_index():
    net = linear(10)
    nn.init.zeros_(net[1].weight)
    nn.init.zeros_(net[1].bias)
    assert fr.Classifier(net, fr.heads.Softmax()).predict(images()).tolist() == [0] * 7


def test_a_plain_module_is_wrapped_without_a_copy():
    net = linear(10)
    model = as_classifier(net)
    assert model.net is net and as_classifier(model) is model
    x = images()
    assert torch.equal(model(x), net(x))
    assert torch.equal(as_classifier(lambda x: net(x))(x), net(x))


def test_half_precision_reaches_the_body_alone():
    model = fr.Classifier(linear(16), fr.heads.Codeword(BOOK)).bfloat16()
    assert model.net[1].weight.dtype == torch.bfloat16
    assert torch.equal(model.head.vectors, BOOK.vectors)
    assert model(images().bfloat16()).dtype == torch.float32


def test_double_precision_all_through():
    model = fr.Classifier(linear(16), fr.heads.Codeword(BOOK)).double()
    x = images(dtype=torch.float64)
    assert model(x).dtype == torch.float64 and model.predict(x).dtype == torch.int64


def test_gradients_reach_the_parameters():
    model = fr.Classifier(linear(16), fr.heads.Codeword(BOOK))
    F.cross_entropy(model(images()), torch.arange(7)).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fr.Classifier("net", fr.heads.Softmax()), TypeError, "net must be"),
        (lambda: fr.Classifier(linear(4), "ce"), TypeError, "head must be"),
        (lambda: fr.Classifier(linear(4), fr.heads.Softmax(), (0, 0)), ValueError, "stds > 0"),
        (
            lambda: fr.Classifier(linear(4), fr.heads.Softmax(), ([0, 0], [1])),
            ValueError,
            "as many means",
        ),
        (lambda: fr.heads.Softmax("hinge"), ValueError, "'hinge'"),
        (lambda: fr.heads.Codeword(torch.eye(3)), TypeError, "Codebook"),
        (
            lambda: fr.Classifier(linear(10), fr.heads.Codeword(BOOK))(images()),
            ValueError,
            "16 outputs, one per codeword entry, got 10",
        ),
        (lambda: as_classifier(nn.Conv2d(3, 4, 1))(images()), ValueError, r"shape \(7, d\)"),
        (lambda: as_classifier(3), TypeError, "got int"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
