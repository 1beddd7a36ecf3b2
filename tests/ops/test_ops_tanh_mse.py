import numpy as np
import pytest
import torch

from fastrobust.ops import tanh_mse, tanh_mse_ref

# Sums of d squares of numbers below 4.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}
DTYPES = list(TOLERANCE)


def batch(rows, width, dtype, device="cpu"):
    z, target = torch.randn(rows, width, dtype=dtype), torch.rand(rows, width, dtype=dtype) * 2 - 1
    return z.to(device), target.to(device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 31, 129, 151])
@pytest.mark.parametrize("rows", [0, 1, 2, 31])
def test_against_numpy(rows, width, dtype, device):
    z, target = batch(rows, width, dtype, device)
    got = tanh_mse(z, target)
    want = ((np.tanh(z.cpu().double().numpy()) - target.cpu().double().numpy()) ** 2).mean(1)
    np.testing.assert_allclose(got.cpu().numpy(), want, rtol=1e-5, atol=TOLERANCE[dtype])


def test_gradients_by_finite_differences(device):
    z, target = batch(3, 17, torch.float64, device)
    assert torch.autograd.gradcheck(tanh_mse, (z.requires_grad_(), target.requires_grad_()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_the_reference(dtype, device):
    z, target = batch(31, 129, dtype, device)
    weights = torch.rand(31, dtype=dtype, device=device)
    got, want = [
        torch.autograd.grad(
            (f(z.requires_grad_(), target.requires_grad_()) * weights).sum(), (z, target)
        )
        for f in (tanh_mse, tanh_mse_ref)
    ]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=TOLERANCE[dtype])


def test_slope_survives_saturation(device):
    z, target = torch.full((1, 3), -15.0, device=device), torch.zeros(1, 3, device=device)
    (got,) = torch.autograd.grad(tanh_mse(z.requires_grad_(), target).sum(), z)
    np.testing.assert_allclose(got.cpu().numpy(), -2 / 3 * 4 * np.exp(-30.0), rtol=1e-5)


def test_nan_and_infinity_behave_as_in_the_reference(device):
    z, target = batch(4, 5, torch.float32, device)
    z[0, 1], z[1, 2], z[2, 3], target[3, 0] = torch.nan, torch.inf, -torch.inf, torch.nan
    torch.testing.assert_close(tanh_mse(z, target), tanh_mse_ref(z, target), equal_nan=True)
    grads = [
        torch.autograd.grad(f(z.requires_grad_(), target).nansum(), z)[0]
        for f in (tanh_mse, tanh_mse_ref)
    ]
    torch.testing.assert_close(*grads, equal_nan=True, rtol=1e-4, atol=1e-6)


def test_a_row_does_not_see_its_batch_nor_the_threads():
    z, target = batch(500, 129, torch.float32)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append(tanh_mse(z, target))
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])
    alone = torch.cat([tanh_mse(z[i : i + 1], target[i : i + 1]) for i in range(0, 500, 29)])
    assert torch.equal(alone, results[0][::29])


def test_strides(device):
    z, target = batch(7, 31, torch.float32, device)
    assert torch.equal(tanh_mse(z.T.contiguous().T, target), tanh_mse(z, target))
    z.requires_grad_()
    tanh_mse(z, target).sum().backward()  # the gradient arrives expanded, with stride 0
    assert z.grad is not None


# opcheck itself looks at the .grad of a tensor that is not a leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_is_a_good_citizen_of_torch(device):
    z, target = batch(3, 5, torch.float64, device)
    z.requires_grad_()
    torch.library.opcheck(torch.ops.fastrobust.tanh_mse.default, (z, target))
    grad = torch.rand(3, dtype=torch.float64, device=device)
    op = torch.ops.fastrobust.tanh_mse_backward.default
    torch.library.opcheck(op, (z.detach(), target, grad))
    compiled = torch.compile(
        lambda z: tanh_mse(2 * z, target).sum(), fullgraph=True, backend="aot_eager"
    )
    (got,) = torch.autograd.grad(compiled(z), z)
    (want,) = torch.autograd.grad(tanh_mse_ref(2 * z, target).sum(), z)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("z", "target", "error", "words"),
    [
        (torch.rand(3), torch.rand(3), ValueError, r"z must have shape \(N, d\)"),
        (
            torch.rand(2, 3),
            torch.rand(3),
            ValueError,
            r"target must have shape \[2, 3\], got \[3\]",
        ),
        (torch.rand(2, 3).half(), torch.rand(2, 3).half(), TypeError, "float32 or float64"),
        (torch.rand(2, 3), torch.rand(2, 3).double(), TypeError, "target must be float32 like z"),
    ],
)
def test_errors_say_the_wish_then_the_fact(z, target, error, words):
    with pytest.raises(error, match=words):
        tanh_mse(z, target)
