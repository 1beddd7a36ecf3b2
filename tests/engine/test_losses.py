"""Losses towards a rival, and surrogate heads, against formulas in numpy and finite differences."""

import numpy as np
import pytest
import torch

import fastrobust as fr
from fastrobust.engine import objectives, score_losses
from fastrobust.models.heads import Codeword, Linear, Softmax, Surrogate

CLASSES, LENGTH = 5, 16
BOOK = fr.Codebook.random(CLASSES, LENGTH, key="losses")
HEADS = {
    "softmax": Softmax("ce"),
    "mse": Softmax("mse"),
    "codeword": Codeword(BOOK),
    "linear": Linear(),
}


def expected(name, s, y, t):
    """One row in numpy: section 4 of arXiv 2003.01690 for DLR, arXiv 1910.09338 for the margin."""
    if name == "ce":
        return s[t] * -1 + np.log(np.exp(s - s.max()).sum()) + s.max()
    if name == "margin":
        return s[y] - s[t]
    order = np.sort(s)[::-1]
    return (s[y] - s[t]) / (order[0] - (order[2] + order[3]) / 2)


@pytest.mark.parametrize("name", score_losses.ON_SCORES)
def test_losses_towards_a_rival_are_their_formulas(name):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, CLASSES)) * 3
    y = rng.integers(CLASSES, size=50)
    rival = (y + rng.integers(1, CLASSES, size=50)) % CLASSES
    wanted = [-expected(name, *row) for row in zip(scores, y, rival, strict=True)]
    found = score_losses.on_scores(name, torch.from_numpy(rival))(
        torch.from_numpy(scores), torch.from_numpy(y)
    )
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10)


@pytest.mark.parametrize("name", score_losses.ON_SCORES)
@pytest.mark.parametrize("head", HEADS)
def test_towards_any_rival_they_are_the_kernels(head, name):
    head = HEADS[head].double()
    z = torch.randn(60, LENGTH if head.vectors is not None else CLASSES).double() * 2
    y = torch.randint(CLASSES, (60,))
    value, dz, decision = objectives.loss_and_decision(head, z, y, name)
    again = objectives.loss_and_decision(Surrogate(head), z, y, name)
    torch.testing.assert_close(again[0], value)
    torch.testing.assert_close(again[1], dz)
    assert torch.equal(again[2], decision)


@pytest.mark.parametrize("towards", [False, True])
@pytest.mark.parametrize("name", score_losses.ON_SCORES)
@pytest.mark.parametrize("tanh", ["exact", "skip"])
def test_gradients_are_finite_differences(tanh, name, towards):
    head = Surrogate(HEADS["codeword"].double(), tanh=tanh, temperature=3.0)
    z, y = torch.randn(20, LENGTH).double(), torch.randint(CLASSES, (20,))
    rival = (y + 1) % CLASSES if towards else None
    _, dz, _ = objectives.loss_and_decision(head, z, y, name, rival=rival)
    step = 1e-6
    for place in range(0, LENGTH, 5):
        ends = []
        for sign in (1, -1):
            moved = z.clone()
            moved[:, place] += sign * step
            ends.append(objectives.loss_and_decision(head, moved, y, name, rival=rival)[0])
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(dz[:, place], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bypass_has_the_least_slope_that_it_is_given(dtype):
    """d scores / d z = max(1 - tanh(z)^2, gamma) d scores / d u."""
    head = Codeword(BOOK).to(dtype)
    z = torch.linspace(-30, 30, LENGTH * 8).view(8, LENGTH).to(dtype)
    exact = 1 / z.double().cosh().square()
    for gamma in (0.1, 1e-3):
        surrogate = Surrogate(head, tanh="bypass", gamma=gamma)
        leaf = z.clone().requires_grad_()
        (found,) = torch.autograd.grad(surrogate.scores(leaf)[:, 2].sum(), leaf)
        by_unit = head.vectors[2].double() / (LENGTH / 12)
        wanted = exact.clamp_min(gamma) * by_unit
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(surrogate.scores(z), head.scores(z))
    # Without the bypass the slope is right where 1 - u^2 would be zero in float32.
    leaf = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(Surrogate(head).scores(leaf)[:, 2].sum(), leaf)
    torch.testing.assert_close(found.double(), exact * by_unit, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("head", HEADS)
def test_a_surrogate_decides_as_its_head(head):
    head = HEADS[head].double()
    z = torch.randn(200, LENGTH if head.vectors is not None else CLASSES).double() * 3
    for words in ({}, {"temperature": 0.1}, {"tanh": "skip"}, {"tanh": "bypass"}):
        if words.get("tanh") and head.activation != "tanh":
            continue
        surrogate = Surrogate(head, **words)
        assert torch.equal(surrogate.decide(z), head.decide(z))
        assert torch.equal(surrogate.units(z), head.units(z))
        y = torch.zeros(200, dtype=torch.int64)
        assert torch.equal(surrogate.loss(z, y), head.loss(z, y))
    assert torch.equal(Surrogate(head, temperature=4.0).scores(z) * 4, Surrogate(head).scores(z))


def test_wrong_words_are_refused():
    with pytest.raises(ValueError, match="loss must be one of ce, margin, dlr on scores"):
        score_losses.on_scores("mse")
    with pytest.raises(ValueError, match="dlr needs at least 3 classes, got 2"):
        score_losses.on_scores("dlr")(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    # Towards a rival two classes leave the margin.
    to_one = score_losses.on_scores("dlr", torch.tensor([1]))
    assert to_one(torch.tensor([[1.0, 3.0]]), torch.tensor([0])).tolist() == [2.0]
    with pytest.raises(TypeError, match="head must be one of a classifier, got Surrogate"):
        Surrogate(Surrogate(Linear()))
    with pytest.raises(ValueError, match="tanh must be one of"):
        Surrogate(Softmax("ce"), tanh="skip")
    for word in ("gamma", "temperature"):
        with pytest.raises(ValueError, match=f"{word} must be > 0 and finite, got 0"):
            Surrogate(Codeword(BOOK), **{word: 0.0})


@pytest.mark.parametrize("loss", ["units-ce", objectives.UNITS_MARGIN])
@pytest.mark.parametrize("head", ["softmax", "mse", "codeword"])
def test_gradients_on_units_are_finite_differences(head, loss):
    head = HEADS[head].double()
    width = CLASSES if head.vectors is None else LENGTH
    z, y = torch.randn(20, width).double(), torch.randint(CLASSES, (20,))
    label = objectives.label_vectors(head, z, y, torch.ones(20))
    label[::2] = objectives.label_vectors(head, z, y, -torch.ones(20))[::2]
    _, dz, _ = objectives.loss_and_decision(head, z, y, loss, label)
    step = 1e-6
    for unit in range(width):
        moved = step * torch.nn.functional.one_hot(torch.tensor(unit), width)
        ends = [objectives.loss_and_decision(head, z + way, y, loss, label)[0]
                for way in (moved, -moved)]  # fmt: skip
        torch.testing.assert_close(
            dz[:, unit], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6
        )
