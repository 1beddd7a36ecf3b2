import numpy as np
import pytest
import torch

from fastrobust.ops import decode, decode_ref
from fastrobust.ops.extension import kernels

# Distances are sums of d squares: a few roundings each, more with d.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}
DTYPES = list(TOLERANCE)


def oracle(u, vectors):
    """Every distance to every vector, in float64 numpy."""
    gaps = u.double().numpy()[:, None, :] - vectors.double().numpy()[None, :, :]
    squared = (gaps**2).sum(2)
    return squared.argmin(1), squared.min(1)


def batch(rows, classes, width, dtype, device="cpu"):
    u = torch.rand(rows, width, dtype=dtype) * 2 - 1
    vectors = torch.rand(classes, width, dtype=dtype) * 2 - 1
    return u.to(device), vectors.to(device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 31, 129, 151, 1024])
@pytest.mark.parametrize("rows", [0, 1, 2, 31])
def test_against_brute_force(rows, width, dtype, device):
    u, vectors = batch(rows, 17, width, dtype, device)
    index, distance = decode(u, vectors)
    assert index.dtype == torch.int64 and distance.dtype == dtype
    if rows:
        want_index, want_distance = oracle(u.cpu(), vectors.cpu())
        np.testing.assert_array_equal(index.cpu().numpy(), want_index)
        np.testing.assert_allclose(
            distance.cpu().numpy(), want_distance, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )
        assert torch.equal(index, decode_ref(u, vectors)[0])


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 10_000])
def test_any_number_of_classes(classes, device):
    u, vectors = batch(3, classes, 33, torch.float64, device)
    want_index, _ = oracle(u.cpu(), vectors.cpu())
    np.testing.assert_array_equal(decode(u, vectors)[0].cpu().numpy(), want_index)


def test_ties_go_to_the_lowest_index(device):
    u = torch.zeros(1, 5, device=device)
    vectors = torch.ones(6, 5, device=device) * torch.tensor(
        [[2.0], [1], [-1], [1], [-1], [3]], device=device
    )
    assert decode(u, vectors)[0].item() == 1


def test_nan_and_infinity_behave_as_in_the_reference(device):
    u, vectors = batch(4, 5, 20, torch.float32, device)
    u[0, 3], u[1, 0], u[2, 19] = torch.nan, torch.inf, -torch.inf
    index, distance = decode(u, vectors)
    want_index, want_distance = decode_ref(u, vectors)
    assert torch.equal(index, want_index)
    torch.testing.assert_close(distance, want_distance, equal_nan=True)
    assert index[0] == 0 and distance[0].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_see_its_batch(dtype, device):
    u, vectors = batch(31, 11, 129, dtype, device)
    index, distance = decode(u, vectors)
    for row in range(len(u)):
        alone = decode(u[row : row + 1], vectors)
        assert alone[0] == index[row] and alone[1] == distance[row]


def test_threads_change_no_bit():
    u, vectors = batch(400, 50, 129, torch.float32)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append(decode(u, vectors))
    torch.set_num_threads(threads)
    for index, distance in results[1:]:
        assert torch.equal(index, results[0][0]) and torch.equal(distance, results[0][1])


def test_takes_any_strides(device):
    u, vectors = batch(7, 6, 31, torch.float32, device)
    strided = decode(u.T.contiguous().T, vectors.repeat(1, 2)[:, ::1][:, :31])
    assert torch.equal(strided[0], decode(u, vectors)[0])
    assert torch.equal(strided[1], decode(u, vectors)[1])


def test_is_a_good_citizen_of_torch(device):
    torch.library.opcheck(
        torch.ops.fastrobust.decode.default, batch(3, 4, 5, torch.float32, device)
    )
    compiled = torch.compile(decode, fullgraph=True, backend="aot_eager")
    u, vectors = batch(9, 4, 5, torch.float32, device)
    assert torch.equal(compiled(u, vectors)[0], decode(u, vectors)[0])


@pytest.mark.parametrize(
    ("u", "vectors", "error", "words"),
    [
        (torch.rand(3), torch.rand(2, 3), ValueError, r"u must have shape \(N, d\), got \[3\]"),
        (torch.rand(2, 3), torch.rand(2, 4), ValueError, r"vectors must have shape \(K, 3\)"),
        (torch.rand(2, 3), torch.rand(0, 3), ValueError, "vectors must have shape"),
        (torch.rand(2, 3).half(), torch.rand(2, 3).half(), TypeError, "float32 or float64"),
        (torch.rand(2, 3), torch.rand(2, 3).double(), TypeError, "vectors must be"),
    ],
)
def test_errors_say_the_wish_then_the_fact(u, vectors, error, words):
    with pytest.raises(error, match=words):
        decode(u, vectors)


def test_other_devices_are_refused():
    u, index, distance = torch.rand(2, 3), torch.empty(2, dtype=torch.int64), torch.empty(2)
    with pytest.raises(RuntimeError, match="vectors must be on cpu like u, got meta"):
        kernels.decode(u, u.to("meta"), index, distance)
    with pytest.raises(RuntimeError, match="u must be on the CPU"):
        kernels.decode(u.to("meta"), u.to("meta"), index, distance)
