import numpy as np
import pytest
import torch

from fastrobust.ops import conv_spectrum, conv_spectrum_ref
from fastrobust.ops.conv_spectrum_op import half_plane
from fastrobust.ops.extension import kernels

# Relative to the largest value, where none is smaller by more than ten times.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}
DTYPES = list(TOLERANCE)
SQUARE = tuple((y, x) for y in range(3) for x in range(3))


def oracle(weight, places, size):
    """Singular values at every frequency of the plane, in float64 numpy, by its FFT."""
    grid = np.zeros((*weight.shape[:3], *size))
    for t, (y, x) in enumerate(places):
        grid[..., y, x] += weight[..., t].double().cpu().numpy()
    waves = np.fft.fft2(grid)
    chosen = [(u, v) for u, v, _ in half_plane(*size)]
    matrices = np.stack([waves[..., u, v] for u, v in chosen], 1)
    return np.linalg.svd(matrices, compute_uv=False)


def check(found, weight, places, size, tolerance):
    wanted = oracle(weight, places, size)
    found = np.sort(found.double().cpu().numpy())[..., ::-1]
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * wanted.max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [1, 2, 3, 12, 31, 32, 65])
def test_against_numpy(inner, dtype, device):
    for outer, size in ((3 * inner + 4, (5, 4)), (3 * inner + 5, (8, 9))):
        wide = torch.randn(2, inner, outer, 9, dtype=dtype, device=device)
        tall = torch.randn(1, outer, inner, 9, dtype=dtype, device=device)
        for weight, found in zip(
            (wide, tall), conv_spectrum([wide, tall], [SQUARE] * 2, [size] * 2), strict=True
        ):
            assert found.dtype == dtype and found.device.type == device.type
            check(found, weight, SQUARE, size, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_condition(dtype, device):
    """Equal values, zero ones, and any in between; the squares are right, not the values."""
    cases = torch.zeros(9, 12, 12, 2, dtype=dtype, device=device)
    identity = torch.eye(12, dtype=dtype, device=device)
    cases[1, :, :, 0] = identity
    cases[2, :, :, 0], cases[2, :, :, 1] = identity, 1e-3 * torch.randn_like(identity)
    cases[3, :, :, 0] = torch.diag(torch.logspace(0, -8, 12, dtype=dtype, device=device))
    cases[3, :, :, 1] = cases[3, :, :, 0].flip(0)
    cases[4] = torch.ones_like(cases[4])
    cases[5, 3, 5, 1] = 7e-20
    cases[6, :, :, 0], cases[6, :, :, 1] = identity, 1e-5 * torch.randn_like(identity)
    turn = torch.linalg.qr(torch.randn_like(identity))[0]
    cases[7, :, :, 0] = torch.diag(torch.logspace(0, -20, 12, dtype=dtype, device=device)) @ turn
    cases[7, :, :, 1] = cases[7, :, :, 0] @ turn
    cases[8, :, :, 0] = identity
    cases[8, 2, 0, 0] = cases[8, 7, 3, 0] = 1  # a column that begins with 0
    places, size = ((0, 0), (2, 3)), (6, 5)
    (found,) = conv_spectrum([cases], [places], [size])
    wanted = oracle(cases, places, size)
    found = np.sort(found.double().cpu().numpy())[..., ::-1]
    largest = wanted.max((1, 2), keepdims=True)
    assert (np.abs(found**2 - wanted**2) <= TOLERANCE[dtype] * largest**2).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_convolution_does_not_see_the_others(dtype, device):
    weights = [torch.randn(3, a, b, 9, dtype=dtype, device=device) for a, b in ((12, 5), (7, 9))]
    sizes = [(8, 8), (5, 6)]
    for weight, size, together in zip(
        weights, sizes, conv_spectrum(weights, [SQUARE] * 2, sizes), strict=True
    ):
        for i in range(3):
            alone = conv_spectrum([weight[i : i + 1]], [SQUARE], [size])[0][0]
            torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-5)


def test_threads_change_no_bit():
    weights = [torch.randn(3, 12, 48, 9), torch.randn(5, 4, 6, 9)]
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(conv_spectrum(weights, [SQUARE] * 2, [(16, 16)] * 2))
    torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_the_reference_is_right():
    weight = torch.randn(2, 5, 4, 9, dtype=torch.float64)
    (found,) = conv_spectrum_ref([weight], [SQUARE], [(5, 6)])
    check(found, weight, SQUARE, (5, 6), 1e-14)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 4), (4, 3), (5, 5), (6, 4)])
def test_the_half_plane_stands_for_the_whole(size):
    listed = half_plane(*size)
    seen = [(u, v) for u, v, _ in listed]
    seen += [(-u % size[0], -v % size[1]) for u, v, often in listed if often == 2]
    assert sorted(seen) == [(u, v) for u in range(size[0]) for v in range(size[1])]


def arguments(device="cpu"):
    gram = torch.rand(12, device=device)
    waves, values = torch.rand(64, device=device), torch.empty(32, device=device)
    return gram, waves, torch.tensor([[2, 2, 0, 0, 16, 0]]), values


def test_is_a_good_citizen_of_torch(device):
    *given, values = arguments(device)
    torch.library.opcheck(torch.ops.fastrobust.conv_spectrum.default, (*given, values.numel()))


def test_nothing_to_do():
    assert conv_spectrum([], [], []) == []
    none = torch.empty(0)
    kernels.conv_spectrum(none, none, torch.empty(0, 6, dtype=torch.int64), none)


@pytest.mark.parametrize(
    ("weight", "places", "error", "words"),
    [
        (torch.rand(2, 3, 9), SQUARE, ValueError, r"weights must have shape \(P, a, b, taps\)"),
        (torch.rand(1, 257, 260, 9), SQUARE, ValueError, r"with 1 <="),
        (torch.rand(1, 3, 4, 8), SQUARE, ValueError, "places must name each of 8 taps, got 9"),
        (torch.rand(1, 3, 4, 9).half(), SQUARE, TypeError, "gram must be float32 or float64"),
    ],
)
def test_errors_say_the_wish_then_the_fact(weight, places, error, words):
    with pytest.raises(error, match=words):
        conv_spectrum([weight], [places], [(4, 4)])


@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("value", [-16, 300])
def test_a_job_outside_of_its_memory_is_refused(column, value):
    gram, waves, jobs, values = arguments()
    jobs[0, column] = value
    with pytest.raises(
        ValueError, match="must lie inside gram, waves and values|must have 1 to 256"
    ):
        kernels.conv_spectrum(gram, waves, jobs, values)


def test_other_shapes_and_devices_are_refused():
    gram, waves, jobs, values = arguments()
    with pytest.raises(ValueError, match=r"jobs must have shape \(N, 6\) on the CPU, got \[1, 5\]"):
        kernels.conv_spectrum(gram, waves, jobs[:, :5], values)
    with pytest.raises(TypeError, match="jobs must be int64, got int32"):
        kernels.conv_spectrum(gram, waves, jobs.int(), values)
    with pytest.raises(RuntimeError, match="waves must be on cpu like gram, got meta"):
        kernels.conv_spectrum(gram, waves.to("meta"), jobs, values)
