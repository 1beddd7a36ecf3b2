import numpy as np
import pytest
import torch

from fastrobust.ops import step, step_, step_ref_
from fastrobust.ops.step_op import launch_step

KINDS = ("sign", "momentum", "l2")
# sign moves by exact arithmetic; the others divide by a norm, summed in another order.
TOLERANCE = {
    torch.float32: {"sign": 0, "momentum": 2e-6, "l2": 2e-6},
    torch.float64: {"sign": 0, "momentum": 1e-14, "l2": 1e-14},
}
DTYPES = list(TOLERANCE)
SHAPES = [(0, 3, 4, 4), (1, 1), (2, 31), (31, 2), (3, 129), (2, 3, 151), (4, 3, 32, 32)]


def oracle(x, x0, g, m, kind, eps, size, decay, lo, hi):
    """One row after the other in numpy, from the definitions; returns x and m."""
    x, x0, g, m = (t.numpy().copy() for t in (x, x0, g, m))
    for i in range(len(x)):
        if kind == "momentum":
            m[i] = decay * m[i] + g[i] / max(1e-12, np.abs(g[i]).mean())
        if kind == "l2":
            v = x[i] + size[i] * g[i] / max(1e-12, np.sqrt((g[i] ** 2).sum()))
            length = np.sqrt(((v - x0[i]) ** 2).sum())
            v = x0[i] + (v - x0[i]) * (eps[i] / length) if length > eps[i] else v
        else:
            v = x[i] + size[i] * np.sign(g[i] if kind == "sign" else m[i])
            v = np.clip(v, x0[i] - eps[i], x0[i] + eps[i])
        x[i] = np.clip(v, lo, hi)
    return x, m


def batch(shape, dtype, device="cpu"):
    """Return x, x0, grad (some exact zeros), momentum."""
    x0 = torch.rand(shape, dtype=dtype)
    x = x0 + 0.05 * torch.randn(shape, dtype=dtype)
    grad = torch.randn(shape, dtype=dtype) * (torch.rand(shape) > 0.1)
    return [t.to(device) for t in (x, x0, grad, torch.randn(shape, dtype=dtype))]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_definitions(kind, dtype, shape, device):
    x, x0, grad, m = batch(shape, dtype, device)
    eps = torch.rand(shape[0], dtype=dtype) * 0.1
    size = torch.rand(shape[0], dtype=dtype) * 0.1
    want, want_m = oracle(
        *(t.cpu() for t in (x, x0, grad, m)), kind, eps.numpy(), size.numpy(), 0.9, 0.0, 1.0
    )
    m = m if kind == "momentum" else None
    got = step_(x, x0, grad, m, kind, eps.to(device), size.to(device), 0.9, 0.0, 1.0)
    assert got is x
    near = {"rtol": 0, "atol": TOLERANCE[dtype][kind]}
    np.testing.assert_allclose(x.cpu().numpy(), want, **near)
    if m is not None:
        np.testing.assert_allclose(m.cpu().numpy(), want_m, rtol=1e-5, atol=0)


@pytest.mark.parametrize("box", [(0.0, 1.0), (None, 0.6), (0.4, None), (None, None)])
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_reference_over_several_steps(kind, box, device):
    x, x0, grad, m = batch((5, 3, 8, 8), torch.float64, device)
    m, m2 = (m.clone(), m.clone()) if kind == "momentum" else (None, None)
    y = x.clone()
    for _ in range(5):
        step_(x, x0, grad, m, kind, 0.07, 0.03, 0.8, *box)
        step_ref_(y, x0, grad, m2, kind, 0.07, 0.03, 0.8, *box)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_stays_in_ball_and_box(kind, device):
    x, x0, grad, m = batch((9, 200), torch.float32, device)
    step_(x, x0, grad, m if kind == "momentum" else None, kind, 0.05, 10.0)
    ord = 2 if kind == "l2" else torch.inf
    assert ((x - x0).norm(ord, dim=1) <= 0.05 * (1 + 1e-5)).all()
    assert x.min() >= 0 and x.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_zero_eps_gives_back_the_centre(kind, device):
    x, x0, grad, m = batch((3, 50), torch.float32, device)
    step_(x, x0, grad, m if kind == "momentum" else None, kind, 0.0, 0.1, lo=None, hi=None)
    torch.testing.assert_close(x, x0, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_gradient_stays(kind, device):
    x0 = torch.rand(2, 5, device=device)
    m = torch.zeros_like(x0) if kind == "momentum" else None
    got = step_(x0.clone(), x0, torch.zeros_like(x0), m, kind, 0.1, 0.1)
    assert torch.equal(got, x0)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_infinity_behave_as_in_the_reference(kind, device):
    x, x0, grad, m = batch((6, 7), torch.float32, device)
    grad[0, 1], grad[1, 2], grad[2, 3] = torch.nan, torch.inf, -torch.inf
    x[3, 4], x0[4, 5] = torch.nan, torch.nan
    y, (m, m2) = x.clone(), (m, m.clone()) if kind == "momentum" else (None, None)
    step_(x, x0, grad, m, kind, 0.1, 0.02)
    step_ref_(y, x0, grad, m2, kind, 0.1, 0.02)
    torch.testing.assert_close(x, y, equal_nan=True)
    if m is not None:
        torch.testing.assert_close(m, m2, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_see_its_batch_nor_the_threads(kind):
    x, x0, grad, m = batch((40, 3, 32, 32), torch.float32)
    eps = torch.rand(40) * 0.1

    def run(rows):
        momentum = m[rows].clone() if kind == "momentum" else None
        return step_(x[rows].clone(), x0[rows], grad[rows], momentum, kind, eps[rows], 0.02)

    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append(run(slice(None)))
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])
    alone = torch.cat([run(slice(i, i + 1)) for i in range(40)])
    assert torch.equal(alone, results[0])


def test_step_leaves_its_arguments_alone(device):
    x, x0, grad, m = batch((3, 8), torch.float32, device)
    before = [t.clone() for t in (x, m)]
    new_x, new_m = step(x, x0, grad, m, "momentum", 0.1, 0.02)
    assert torch.equal(x, before[0]) and torch.equal(m, before[1])
    step_(x, x0, grad, m, "momentum", 0.1, 0.02)
    assert torch.equal(new_x, x) and torch.equal(new_m, m)


def test_takes_any_strides_of_what_it_reads(device):
    x, x0, grad, _ = batch((4, 6), torch.float32, device)
    got = step(
        x.T.contiguous().T, x0.T.contiguous().T, grad[:, :1].expand(4, 6), None, "l2", 0.1, 1
    )
    want = step(x, x0, grad[:, :1].repeat(1, 6), None, "l2", 0.1, 1)
    assert torch.equal(got[0], want[0])


def test_is_a_good_citizen_of_torch(device):
    x, x0, grad, m = batch((3, 8), torch.float32, device)
    rows = torch.full((3,), 0.1, device=device)
    op = torch.ops.fastrobust.step_.default
    torch.library.opcheck(op, (x, x0, grad, m, "momentum", rows, rows, 1.0, 0.0, None))
    torch.library.opcheck(op, (x, x0, grad, None, "sign", rows, rows, 1.0, None, 1.0))

    def attack(x):
        return step(x, x0, grad, None, "sign", 0.1, 0.02)[0] * 2

    compiled = torch.compile(attack, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), attack(x))


def test_an_in_place_change_is_seen_by_autograd():
    """Both ways in bump the version counter, so that autograd cannot use a stale value."""
    x, x0, grad, _ = batch((2, 4), torch.float32)
    for update in (step_, launch_step):
        version = x._version
        update(x, x0, grad, None, "sign", 0.1, 0.02)
        assert x._version > version


RIGHT = {
    "x": torch.rand(2, 3), "x0": torch.rand(2, 3), "grad": torch.rand(2, 3), "momentum": None,
    "kind": "sign", "eps": 0.1, "step_size": 0.1, "decay": 1.0, "lo": 0.0, "hi": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"eps": -0.1}, ValueError, "eps must be >= 0, got -0.1"),
        ({"eps": float("nan")}, ValueError, "eps must be >= 0, got nan"),
        ({"eps": torch.tensor([0.1, -1])}, ValueError, "eps must be >= 0 in every row, got -1"),
        ({"eps": torch.rand(3)}, ValueError, r"eps must have shape \[2\], got \[3\]"),
        ({"eps": torch.rand(2).double()}, TypeError, "eps must be float32 like x, got float64"),
        ({"step_size": -1.0}, ValueError, "step_size must be >= 0"),
        ({"lo": 2.0}, ValueError, "lo must be <= hi, got 2 and 1"),
        ({"kind": "linf"}, ValueError, r"kind must be sign \| momentum \| l2, got linf"),
        ({"kind": "momentum"}, ValueError, "momentum must be given for kind momentum"),
        ({"momentum": torch.rand(2, 3)}, ValueError, "and for no other, got one for kind sign"),
        ({"x": torch.rand(3, 2).T}, ValueError, "x must be contiguous, as it is written in place"),
        ({"x0": torch.rand(2, 4)}, ValueError, r"x0 must have shape \[2, 3\], got \[2, 4\]"),
        ({"grad": torch.rand(2, 3).double()}, TypeError, "grad must be float32 like x"),
        ({"x": torch.rand(2, 3).half()}, TypeError, "x must be float32 or float64, got float16"),
        ({"x0": torch.rand(2, 3, device="meta")}, RuntimeError, "x0 must be on cpu like x"),
        ({"x0": RIGHT["x"]}, ValueError, "x must not share memory with x0"),
    ],
)
def test_errors_say_the_wish_then_the_fact(change, error, words):
    with pytest.raises(error, match=words):
        launch_step(**{**RIGHT, **change})
