import numpy as np
import pytest
import torch

from fastrobust.ops import random_start_, random_start_ref_
from fastrobust.ops.philox import philox4x32, split
from fastrobust.ops.random_start_op import launch_start

DTYPES = [torch.float32, torch.float64]
SEED = 2**63 + 12345
INDEX = [0, 1, 2**33 + 7]


def words(seed, index, restart, count):
    """Return `count` words of numpy's Philox, of which the upper 24 bits count."""
    counter = [[block, *split(index), restart] for block in range((count + 3) // 4)]
    return (philox4x32(counter, split(seed)).reshape(-1)[:count] >> 8).astype(np.float64)


def start(norm, shape, eps=0.3, restart=2, dtype=torch.float64, device="cpu", **box):
    x0 = torch.rand(shape, dtype=dtype, device=device)
    x = torch.full_like(x0, torch.nan)
    index = torch.tensor(INDEX[: shape[0]], dtype=torch.int64, device=device)
    random_start_(x, x0, norm, eps, SEED, index, restart, **box)
    return x, x0, index


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (2, 31), (3, 3, 7), (3, 129)])
def test_linf_is_the_published_generator(shape, dtype, device):
    x, x0, _ = start("linf", shape, dtype=dtype, device=device)
    for row in range(shape[0]):
        uniform = words(SEED, INDEX[row], 2, x0[row].numel()) * 2.0**-23 - 1
        want = x0[row].flatten() + 0.3 * torch.tensor(uniform, dtype=dtype, device=device)
        assert torch.equal(x[row].flatten(), want)


@pytest.mark.parametrize("count", [1, 2, 31, 129])
def test_l2_is_box_muller_in_the_ball(count, device):
    x, x0, _ = start("l2", (3, count), device=device)
    for row in range(3):
        word = words(SEED, INDEX[row], 2 + 2**31, count + -count % 4)
        radius = np.sqrt(-2 * np.log((word[::2] + 0.5) * 2.0**-24))
        angle = 2 * np.pi * word[1::2] * 2.0**-24
        normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:count]
        share = ((words(SEED, INDEX[row], 2, 1)[0] + 0.5) * 2.0**-24) ** (1 / count)
        want = 0.3 * share * normal / np.linalg.norm(normal)
        np.testing.assert_allclose((x - x0)[row].cpu().numpy(), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_against_the_reference(norm, dtype, device):
    x, x0, index = start(norm, (3, 3, 17), dtype=dtype, device=device, lo=0.2, hi=0.9)
    want = random_start_ref_(torch.empty_like(x), x0, norm, 0.3, SEED, index, 2, 0.2, 0.9)
    atol = 0 if norm == "linf" else {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    torch.testing.assert_close(x, want, rtol=0, atol=atol)
    assert x.min() >= 0.2 and x.max() <= 0.9


def test_l2_starts_are_uniform_in_the_ball():
    """In 3 dimensions the cube of the distance is uniform, and each coordinate has mean 0."""
    n = 20_000
    x = torch.empty(n, 3, dtype=torch.float64)
    random_start_(x, torch.zeros_like(x), "l2", 2.0, 1, torch.arange(n), 0)
    volume = (x.norm(dim=1) / 2) ** 3
    assert volume.max() <= 1
    quantiles = volume.sort().values - (torch.arange(n) + 0.5) / n
    assert quantiles.abs().max() < 1.63 / n**0.5  # Kolmogorov and Smirnov, 1 %
    assert x.mean(0).abs().max() < 0.04  # 4 sigma and more of sqrt(4 / 5 / n)
    assert abs(x[:, 0] @ x[:, 1]) / n < 0.04


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_start_depends_on_seed_index_restart_and_pixel_alone(norm, device):
    x0, eps = torch.rand(8, 3, 5, device=device), torch.rand(8, device=device)
    index, restart = torch.arange(8, device=device), torch.arange(8, device=device) % 3
    whole = random_start_(torch.empty_like(x0), x0, norm, eps, 7, index, restart)
    order = torch.randperm(8).to(device)
    parts = [
        random_start_(
            torch.empty_like(x0[i : i + 1]), x0[i : i + 1], norm, eps[i : i + 1], 7,
            index[i : i + 1], int(restart[i]),
        )
        for i in order.tolist()
    ]  # fmt: skip
    assert torch.equal(torch.cat(parts), whole[order])
    for other in ({"seed": 8}, {"index": index + 1}, {"restart": restart + 1}):
        call = {"eps": eps, "seed": 7, "index": index, "restart": restart, **other}
        again = random_start_(torch.empty_like(x0), x0, norm, **call)
        assert (again != whole).flatten(1).any(1).all()


def test_nan_stays_and_eps_zero_is_the_centre(device):
    x0 = torch.rand(2, 9, device=device)
    index = torch.arange(2, device=device)
    assert torch.equal(random_start_(torch.empty_like(x0), x0, "linf", 0.0, 1, index, 0), x0)
    x0[0, 3] = torch.nan
    x = random_start_(torch.empty_like(x0), x0, "l2", 0.1, 1, index, 0, lo=0.0, hi=1.0)
    assert torch.equal(x.isnan(), x0.isnan())


def test_threads_change_no_bit():
    x0, index = torch.rand(64, 3, 32, 32), torch.arange(64)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(random_start_(torch.empty_like(x0), x0, "l2", 0.1, 5, index, 0))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_is_a_good_citizen_of_torch(device):
    x0 = torch.rand(3, 8, device=device)
    rows, index = torch.full((3,), 0.1, device=device), torch.arange(3, device=device)
    op = torch.ops.fastrobust.random_start_.default
    torch.library.opcheck(op, (torch.zeros_like(x0), x0, "l2", rows, -5, index, index, 0.0, None))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"norm": "l1"}, ValueError, r"norm must be linf \| l2, got l1"),
        ({"eps": -1.0}, ValueError, "eps must be >= 0, got -1"),
        ({"seed": -1}, ValueError, r"seed must lie in \[0, 2\^64\), got -1"),
        ({"seed": 2**64}, ValueError, "seed must lie in"),
        ({"index": torch.arange(3)}, ValueError, r"index must have shape \[2\], got \[3\]"),
        ({"index": torch.rand(2)}, TypeError, "index must be int64, got float32"),
        ({"restart": -1}, ValueError, r"restart must lie in \[0, 2\^31\), got -1"),
        ({"restart": 2**31}, ValueError, "restart must lie in"),
        ({"x": torch.rand(3, 2).T}, ValueError, "x must be contiguous"),
    ],
)
def test_errors_say_the_wish_then_the_fact(change, error, words):
    right = {"x": torch.rand(2, 3), "x0": torch.rand(2, 3), "norm": "linf", "eps": 0.1, "seed": 1}
    call = {**right, "index": torch.arange(2), "restart": 0, **change}
    with pytest.raises(error, match=words):
        launch_start(**call)
