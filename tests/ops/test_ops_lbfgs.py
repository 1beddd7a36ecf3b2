import numpy as np
import pytest
import torch

from fastrobust.ops import lbfgs_direction, lbfgs_direction_ref
from fastrobust.ops.lbfgs_op import launch_lbfgs

# Relative to the longest step of a row: sums in another order, once for each pair.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}
DTYPES = list(TOLERANCE)
SHAPES = [(1, 1), (2, 31), (31, 2), (3, 129), (2, 3, 151)]


def oracle(s, y, rho, pairs, x, grad, scale, lo, hi):
    """The dense inverse Hessian of the free pixels, pair by pair (Nocedal and Wright, (7.16))."""
    direction, slope = np.zeros_like(x), np.zeros(len(x))
    for i in range(len(x)):
        held = range(max(0, pairs[i] - s.shape[1]), pairs[i])  # oldest first
        free = ~((x[i] <= lo) & (grad[i] > 0) | (x[i] >= hi) & (grad[i] < 0))
        g, room = grad[i][free], (lo - x[i][free], hi - x[i][free])
        kept = [p % s.shape[1] for p in held if rho[i, p % s.shape[1]] > 0]
        longest = np.inf if np.isfinite([lo, hi]).all() else 1.0
        steepest = np.clip(-min(scale, longest / (np.linalg.norm(g) or np.inf)) * g, *room)
        step = steepest
        if kept:
            inverse = np.eye(len(g)) / (rho[i, kept[-1]] * (y[i, kept[-1]] @ y[i, kept[-1]]))
            for p in kept:
                a, b, weight = s[i, p][free], y[i, p][free], rho[i, p]
                side = np.eye(len(g)) - weight * np.outer(b, a)
                inverse = side.T @ inverse @ side + weight * np.outer(a, a)
            step = np.clip(-inverse @ g, *room)
        direction[i][free] = step if g @ step < 0 else steepest
        slope[i] = grad[i] @ direction[i]
    return direction, slope


def rows(shape, m, dtype, device="cpu"):
    """Return s, y, rho, pairs, x (many pixels at a bound), grad; some pairs curve downwards."""
    ring = (shape[0], m, *shape[1:])
    s = torch.randn(ring, dtype=torch.float64)
    y = s * (0.2 + torch.rand(shape[1:]).double()) + 0.2 * torch.randn(ring).double()
    y[:, -1] *= -1
    x = (torch.rand(shape).double() * 1.6 - 0.3).clamp(0, 1)
    pairs = torch.arange(shape[0]) * 2
    rho = 1 / (s * y).flatten(2).sum(2)
    return [t.to(device, dtype if t.is_floating_point() else None) for t in (
        s, y, rho, pairs, x, torch.randn(shape).double(),
    )]  # fmt: skip


def near(got, wanted, dtype):
    for a, b in zip(got, wanted, strict=True):
        size = max(1.0, float(np.abs(np.asarray(b)).max()))
        np.testing.assert_allclose(a.cpu().double(), b, rtol=0, atol=TOLERANCE[dtype] * size)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("m", [1, 3, 10])
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_dense_inverse_hessian(dtype, m, shape, device):
    given = rows(shape, m, dtype, device)
    s, y, rho, pairs, x, grad = (t.cpu().double().numpy() for t in given)
    flat = (s.reshape(*s.shape[:2], -1), y.reshape(*s.shape[:2], -1), rho, pairs.astype(int))
    wanted = oracle(*flat, x.reshape(len(x), -1), grad.reshape(len(x), -1), 0.5, 0.0, 1.0)
    direction, slope = lbfgs_direction(*given, 0.5)
    assert direction.shape == x.shape and (slope <= 0).all()
    near((direction.flatten(1), slope), wanted, dtype)


@pytest.mark.parametrize("box", [(0.0, 1.0), (None, 1.0), (0.0, None), (None, None)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_reference(dtype, box, device):
    given = rows((24, 3, 6, 7), 5, dtype, device)
    near(lbfgs_direction(*given, 0.5, *box), [t.cpu() for t in lbfgs_direction_ref(
        *(t.cpu() for t in given), 0.5, *box)], dtype)  # fmt: skip


def test_the_newton_step_of_a_quadratic():
    """With as many pairs as pixels, along its axes, H is the inverse of a diagonal Hessian."""
    curvature = torch.tensor([1.0, 2.0, 4.0, 8.0]).double()
    s = torch.eye(4).double()[None]
    x, grad = torch.full((1, 4), 0.5).double(), torch.tensor([[0.1, -0.2, 0.3, 8.0]]).double()
    rho, pairs = (1 / curvature)[None], torch.tensor([4])
    direction, slope = lbfgs_direction(s, s * curvature, rho, pairs, x, grad)
    newton = (-grad / curvature).clamp(-0.5, 0.5)
    torch.testing.assert_close(direction, newton)
    torch.testing.assert_close(slope, (newton * grad).sum(1))


def test_without_pairs_it_goes_down_the_gradient_at_most_by_one(device):
    grad = torch.tensor([[3.0, -4.0], [0.3, -0.4]], device=device)
    x, ring = torch.zeros(2, 2, device=device), torch.full((2, 3, 2), torch.nan, device=device)
    none = torch.zeros(2, dtype=torch.int64, device=device)
    direction, slope = lbfgs_direction(ring, ring, ring[..., 0], none, x, grad, 0.5, None, None)
    wanted = torch.tensor([[-0.6, 0.8], [-0.15, 0.2]], device=device)
    torch.testing.assert_close(direction, wanted)
    torch.testing.assert_close(slope, torch.tensor([-5.0, -0.125], device=device))


def test_a_closed_box_bounds_the_first_step_by_itself(device):
    """An open side brings back the limit of 1: (3, -4) is cut to (0.6, -0.8)."""
    grad = torch.tensor([[3.0, -4.0]], device=device)
    x, ring = torch.zeros(1, 2, device=device), torch.zeros(1, 3, 2, device=device)
    none = torch.zeros(1, dtype=torch.int64, device=device)
    for box, wanted in (
        ((-9.0, 9.0), [[-3.0, 4.0]]),
        ((-2.0, 9.0), [[-2.0, 4.0]]),
        ((-9.0, None), [[-0.6, 0.8]]),
        ((None, 9.0), [[-0.6, 0.8]]),
    ):
        direction, _ = lbfgs_direction(ring, ring, ring[..., 0], none, x, grad, 1.0, *box)
        torch.testing.assert_close(direction.cpu(), torch.tensor(wanted))


def test_nowhere_to_go(device):
    x = torch.tensor([[0.0, 1.0], [0.3, 0.7]], device=device)
    grad = torch.tensor([[1.0, -1.0], [0.0, 0.0]], device=device)
    ring, pairs = torch.ones(2, 1, 2, device=device), torch.ones_like(x[:, 0]).long()
    direction, slope = lbfgs_direction(ring, ring, ring[..., 0], pairs, x, grad)
    assert not direction.any() and not slope.any()


def test_where_the_model_climbs_it_forgets_the_pairs(device):
    """H = [[1, -2], [-2, 5]] sends (1, 1) to (1, -3), of which the box leaves (0.8, -0.1)."""
    hessian = torch.tensor([[5.0, 2.0], [2.0, 1.0]]).double()
    s = torch.eye(2).double()[None]
    s[0, 1] -= (s[0, 1] @ hessian @ s[0, 0]) / (s[0, 0] @ hessian @ s[0, 0]) * s[0, 0]
    y = s @ hessian
    rho, x = 1 / (s * y).sum(2), torch.tensor([[0.2, 0.1]]).double()
    grad = torch.tensor([[1.0, 1.0]]).double()
    given = [t.to(device) for t in (s, y, rho, torch.tensor([2]), x, grad)]
    direction, slope = lbfgs_direction(*given)
    torch.testing.assert_close(direction.cpu(), -x)
    torch.testing.assert_close(slope.cpu(), -x.sum(1))
    wide = lbfgs_direction(*given, 1.0, -9.0, 9.0)[0]
    torch.testing.assert_close(wide.cpu(), torch.tensor([[1.0, -3.0]]).double())


def test_stays_in_the_box_and_is_nan_where_the_gradient_is(device):
    s, y, rho, pairs, x, grad = rows((9, 200), 4, torch.float32, device)
    grad *= 100
    grad[3, 7] = torch.nan
    direction, slope = lbfgs_direction(s, y, rho, pairs, x, grad)
    assert slope.isnan().nonzero().flatten().tolist() == [3] and direction[3, 7].isnan()
    whole = torch.arange(9) != 3
    for t in (0.1, 1.0):
        there = x[whole] + t * direction[whole]
        assert there.min() > -1e-6 and there.max() < 1 + 1e-6


def test_a_row_does_not_see_its_batch_nor_the_threads():
    given = rows((40, 3, 16, 16), 4, torch.float32)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append(lbfgs_direction(*given)[0])
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])
    alone = [lbfgs_direction(*(t[i : i + 1] for t in given))[0] for i in range(40)]
    assert torch.equal(torch.cat(alone), results[0])


def test_takes_any_strides_and_an_empty_batch(device):
    given = rows((4, 6), 3, torch.float32, device)
    s, *others, grad = given
    strange = (s.transpose(1, 2).contiguous().transpose(1, 2), *others, grad.T.contiguous().T)
    assert torch.equal(lbfgs_direction(*strange)[0], lbfgs_direction(*given)[0])
    empty = lbfgs_direction(*(t[:0] for t in given))
    assert empty[0].shape == (0, 6) and empty[1].shape == (0,)


def test_is_a_good_citizen_of_torch(device):
    given = rows((3, 8), 2, torch.float32, device)
    op = torch.ops.fastrobust.lbfgs_direction.default
    torch.library.opcheck(op, (*given, 1.0, 0.0, None))
    compiled = torch.compile(
        lambda *a: lbfgs_direction(*a)[0] * 2, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(*given), lbfgs_direction(*given)[0] * 2)


RIGHT = dict(
    zip(("s", "y", "rho", "pairs", "x", "grad"), rows((2, 3), 4, torch.float32), strict=True)
)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"s": torch.rand(2, 3)}, ValueError, r"s must have shape \(N, m, ...\) with m > 0, got"),
        ({"s": torch.rand(2, 0, 3)}, ValueError, r"with m > 0, got \[2, 0, 3\]"),
        ({"s": torch.rand(2, 4, 5)}, ValueError, r"s must have shape \[2, 4, 3\], got \[2, 4, 5\]"),
        ({"y": torch.rand(2, 5, 3)}, ValueError, r"y must have shape \[2, 4, 3\], got \[2, 5, 3\]"),
        ({"y": torch.rand(2, 4, 3).double()}, TypeError, "y must be float32 like x, got float64"),
        ({"rho": torch.rand(2, 3)}, ValueError, r"rho must have shape \[2, 4\], got \[2, 3\]"),
        ({"pairs": torch.zeros(2)}, TypeError, "pairs must be int64, got float32"),
        ({"pairs": torch.tensor([1, -1])}, ValueError, "pairs must be >= 0 in every row, got -1"),
        ({"pairs": torch.tensor([1])}, ValueError, r"pairs must have shape \[2\], got \[1\]"),
        ({"x": torch.rand(2, 3).half()}, TypeError, "x must be float32 or float64, got float16"),
        ({"grad": torch.rand(2, 4)}, ValueError, r"grad must have shape \[2, 3\], got \[2, 4\]"),
        ({"grad": torch.rand(2, 3, device="meta")}, RuntimeError, "grad must be on cpu like x"),
        ({"scale": 0.0}, ValueError, "scale must be > 0, got 0"),
        ({"lo": 2.0}, ValueError, "lo must be <= hi, got 2 and 1"),
    ],
)
def test_errors_say_the_wish_then_the_fact(change, error, words):
    with pytest.raises(error, match=words):
        launch_lbfgs(**{**RIGHT, **change})
