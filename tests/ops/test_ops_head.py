from itertools import product

import numpy as np
import pytest
import torch

from fastrobust.ops import decode, head, head_ref
from fastrobust.ops.head_op import launch_head

# Relative to the size of the values, which a margin of codewords may cancel.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
DTYPES = list(TOLERANCE)
ACTIVATIONS = ("tanh", "softmax", "none")
LOSSES = ("ce", "mse", "margin", "dlr", "cw", "distance", "squared")
COMBINATIONS = list(product(ACTIVATIONS, LOSSES, (False, True)))


def oracle(z, vectors, y, activation, loss):
    """One row after the other in float64 numpy: (loss, decision, margin), from the definitions."""
    z = z.double().numpy()
    vectors = None if vectors is None else vectors.double().numpy()
    results = []
    for row, label in zip(z, y.tolist(), strict=True):
        exp = np.exp(row - row.max())
        units = {"tanh": np.tanh(row), "softmax": exp / exp.sum(), "none": row}[activation]
        targets = np.eye(len(row)) if vectors is None else vectors
        if activation == "softmax" or (activation == "none" and vectors is None):
            scores = row
        else:
            scores = targets @ units - (targets**2).sum(1) / 2
            scores = scores / (len(row) / 12) if activation == "tanh" else scores
        distance = np.sqrt(((units - targets) ** 2).sum(1))
        rival = np.where(np.arange(len(scores)) == label, -np.inf, scores).argmax()
        others = np.delete(scores, label)
        ranked = np.sort(scores)[::-1]
        margin = scores[label] - others.max(initial=-np.inf)
        value = {
            "ce": lambda s=scores, k=label: np.log(np.exp(s - s[k]).sum()),
            "mse": lambda u=units, t=targets[label]: np.mean((u - t) ** 2),
            "margin": lambda m=margin: -m,
            "dlr": lambda m=margin, r=ranked: -m / (r[0] - r[2] + 1e-12),
            "cw": lambda m=margin: max(-m, 0.0),
            "distance": lambda d=distance, k=label, j=rival: d[k] - d[j],
            "squared": lambda d=distance, k=label, j=rival: d[k] ** 2 - d[j] ** 2,
        }[loss]()
        results.append((value, scores.argmax(), margin))
    return [np.array(column) for column in zip(*results, strict=True)]


def batch(rows, classes, width, dtype, one_hot=False, device="cpu"):
    """Pre-activations that leave tanh in its curve, vectors (None if one_hot) and labels."""
    z = torch.randn(rows, width, dtype=dtype) * 1.5
    vectors = torch.rand(classes, width, dtype=dtype) * 2 - 1
    y = torch.randint(0, width if one_hot else classes, (rows,))
    return z.to(device), None if one_hot else vectors.to(device), y.to(device)


@pytest.mark.parametrize(("activation", "loss", "one_hot"), COMBINATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_definitions(activation, loss, one_hot, dtype, device):
    for rows, width, classes in ((1, 3, 3), (2, 31, 5), (31, 129, 10), (3, 151, 33)):
        classes = width if activation == "softmax" else classes
        z, vectors, y = batch(rows, classes, width, dtype, one_hot, device)
        value, dz, decision, margin = head(z, vectors, y, activation, loss)
        cpu = (z.cpu(), None if vectors is None else vectors.cpu(), y.cpu())
        want_value, want_decision, want_margin = oracle(*cpu, activation, loss)
        near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
        np.testing.assert_array_equal(decision.cpu().numpy(), want_decision)
        np.testing.assert_allclose(margin.cpu().numpy(), want_margin, **near)
        if loss == "dlr":  # it divides by a gap that may be small
            near = {"rtol": 500 * TOLERANCE[dtype], "atol": 500 * TOLERANCE[dtype]}
        np.testing.assert_allclose(value.cpu().numpy(), want_value, **near)
        wide = (z.double(), None if vectors is None else vectors.double(), y)
        want_dz = head_ref(*wide, activation, loss)[1]
        torch.testing.assert_close(dz.double(), want_dz, **near)


@pytest.mark.parametrize(("activation", "loss", "one_hot"), COMBINATIONS)
def test_gradient_by_finite_differences(activation, loss, one_hot, device):
    z, vectors, y = batch(3, 6, 6, torch.float64, one_hot, device)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: head(z, vectors, y, activation, loss)[0], z)
    value, dz, _, _ = head(z, vectors, y, activation, loss)
    assert not dz.requires_grad
    weights = torch.rand(3, dtype=torch.float64, device=device)
    (value * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights[:, None] * dz)


def test_the_class_of_the_distances_is_the_nearest_other(device):
    """Saito and Roy's loss before its max: D_y - min over i != y of D_i, and CW's for one-hot."""
    z, vectors, y = batch(40, 7, 19, torch.float64, device=device)
    for activation, units in (("tanh", z.tanh()), ("none", z)):
        distance = torch.cdist(units, vectors)
        own = distance.gather(1, y[:, None])[:, 0]
        nearest = distance.scatter(1, y[:, None], torch.inf).amin(1)
        torch.testing.assert_close(head(z, vectors, y, activation, "distance")[0], own - nearest)
        squared = head(z, vectors, y, activation, "squared")[0]
        torch.testing.assert_close(squared, own**2 - nearest**2)
    hinge = head(z, None, y, "none", "margin")
    for ours, margin in zip(head(z, None, y, "none", "squared")[:2], hinge[:2], strict=True):
        torch.testing.assert_close(ours, 2 * margin)


def test_a_distance_of_zero_has_a_gradient(device):
    vectors = torch.tensor([[1.0, 0, 0], [0, 0.5, 0]], device=device)
    y = torch.tensor([0, 1], device=device)
    value, dz, _, _ = head(vectors[:1].expand(2, 3), vectors, y, "none", "distance")
    length = 1.25**0.5
    torch.testing.assert_close(value, torch.tensor([-length, length], device=device))
    away = torch.tensor([1, -0.5, 0], device=device) / length
    torch.testing.assert_close(dz, torch.stack([-away, away]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_decision_has_the_bits_of_decode(dtype, device):
    z, vectors, y = batch(200, 10, 128, dtype, device=device)
    units = head(z, vectors, y, "tanh", "ce")[2]
    torch.testing.assert_close(units, decode(z.tanh(), vectors)[0])
    plain = head(z, vectors, y, "none", "ce")[2]
    assert torch.equal(plain, decode(z, vectors)[0])


@pytest.mark.parametrize("classes", [1, 2, 10_000])
def test_extreme_numbers_of_classes(classes, device):
    for activation, loss in product(("tanh", "none"), ("ce", "mse", "margin", "cw", "distance")):
        z, vectors, y = batch(2, classes, 17, torch.float64, device=device)
        got = head(z, vectors, y, activation, loss)
        want = head_ref(z, vectors, y, activation, loss)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_single_class_has_no_rival(device):
    z, y = torch.tensor([[0.3], [-2.0]], device=device), torch.zeros(2, dtype=torch.int64)
    for loss, value in (("ce", 0.0), ("margin", -torch.inf), ("cw", 0.0)):
        got, dz, decision, margin = head(z, None, y.to(device), "none", loss)
        assert (got == value).all() and (dz == 0).all()
        assert (decision == 0).all() and (margin == torch.inf).all()


def test_slopes_survive_saturation(device):
    """At z = 12 float32 tanh is 1; its slope 4 exp(-24) must not become 0."""
    z = torch.full((1, 2), 12.0, device=device)
    target = torch.zeros(3, 2, device=device)
    dz = head(z, target, torch.tensor([0], device=device), "tanh", "mse")[1]
    np.testing.assert_allclose(dz.cpu().numpy(), 4 * np.exp(-24.0), rtol=1e-5)
    z = torch.tensor([[40.0, 0.0, 0.0]], device=device)  # p_y - 1 = -2 exp(-40), not 0
    dz = head(z, None, torch.tensor([0], device=device), "softmax", "ce")[1]
    want = np.exp(-40.0) * np.array([[-2, 1, 1]])
    np.testing.assert_allclose(dz.cpu().numpy(), want, rtol=1e-5)


def test_ties(device):
    z, y = torch.tensor([[1.0, 2.0, 2.0, 2.0]], device=device), torch.tensor([0], device=device)
    _, dz, decision, margin = head(z, None, y, "softmax", "margin")
    assert decision.item() == 1 and margin.item() == -1
    assert dz.tolist() == [[-1, 1, 0, 0]]
    # At 0 the hinge has gradient 0.
    value, dz, _, margin = head(torch.ones(1, 3, device=device), None, y, "none", "cw")
    assert value == 0 and margin == 0 and (dz == 0).all()


@pytest.mark.parametrize(("activation", "loss", "one_hot"), COMBINATIONS)
def test_nan_and_infinity_behave_as_in_the_reference(activation, loss, one_hot, device):
    z, vectors, y = batch(5, 6, 6, torch.float32, one_hot, device)
    z[0, 2], z[1, 0], z[2, 5], z[3] = torch.nan, torch.inf, -torch.inf, torch.inf
    got = head(z, vectors, y, activation, loss)
    want = head_ref(z, vectors, y, activation, loss)
    for name, a, b in zip(("loss", "dz", "decision", "margin"), got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True, msg=name)


@pytest.mark.parametrize(("activation", "loss"), [("tanh", "ce"), ("tanh", "dlr"), ("none", "mse")])
def test_a_row_does_not_see_its_batch_nor_the_threads(activation, loss):
    z, vectors, y = batch(300, 10, 129, torch.float32)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append(head(z, vectors, y, activation, loss))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for row in range(0, 300, 17):
        part = slice(row, row + 1)
        alone = head(z[part], vectors, y[part], activation, loss)
        assert all(torch.equal(a, b[part]) for a, b in zip(alone, results[0], strict=True))


def test_empty_and_strided_batches(device):
    z, vectors, y = batch(7, 4, 31, torch.float32, device=device)
    empty = head(z[:0], vectors, y[:0], "tanh", "ce")
    assert [tuple(t.shape) for t in empty] == [(0,), (0, 31), (0,), (0,)]
    strided = head(z.T.contiguous().T, vectors.T.contiguous().T, y.repeat(2)[:7], "tanh", "ce")
    for a, b in zip(strided, head(z, vectors, y, "tanh", "ce"), strict=True):
        assert torch.equal(a, b)


# opcheck itself looks at the .grad of a tensor that is not a leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_is_a_good_citizen_of_torch(device):
    z, vectors, y = batch(3, 4, 5, torch.float64, device=device)
    op = torch.ops.fastrobust.head.default
    torch.library.opcheck(op, (z, vectors, y, "tanh", "ce"))
    torch.library.opcheck(op, (z.requires_grad_(), None, y, "softmax", "mse"))
    compiled = torch.compile(
        lambda z: head(z, vectors, y, "tanh", "dlr")[0].sum(), fullgraph=True, backend="aot_eager"
    )
    (got,) = torch.autograd.grad(compiled(z), z)
    assert torch.equal(got, launch_head(z.detach(), vectors, y, "tanh", "dlr")[1])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"z": torch.rand(4)}, ValueError, r"z must have shape \(N, d\), got \[4\]"),
        ({"z": torch.rand(2, 4).bfloat16()}, TypeError, "z must be float32 or float64"),
        ({"vectors": torch.rand(3, 5)}, ValueError, r"vectors must have shape \(K, 4\)"),
        ({"vectors": torch.rand(3, 4).double()}, TypeError, "vectors must be float32 like z"),
        ({"y": torch.tensor([0, 3])}, ValueError, r"y must lie in \[0, 3\), got 3"),
        ({"y": torch.tensor([0, -1])}, ValueError, r"y must lie in \[0, 3\), got -1"),
        ({"y": torch.tensor([0])}, ValueError, r"y must have shape \[2\], got \[1\]"),
        ({"y": torch.tensor([0, 1]).int()}, TypeError, "y must be int64"),
        (
            {"activation": "relu"},
            ValueError,
            r"activation must be tanh \| softmax \| none, got relu",
        ),
        ({"loss": "hinge"}, ValueError, "loss must be ce"),
        ({"activation": "softmax"}, ValueError, "vectors must be square under softmax"),
        ({"vectors": torch.rand(2, 4), "loss": "dlr"}, ValueError, "at least 3 classes, got 2"),
    ],
)
def test_errors_say_the_wish_then_the_fact(change, error, words):
    right = {"z": torch.rand(2, 4), "vectors": torch.rand(3, 4), "y": torch.tensor([0, 1])}
    call = {**right, "activation": "tanh", "loss": "ce", **change}
    with pytest.raises(error, match=words):
        head(**call)
