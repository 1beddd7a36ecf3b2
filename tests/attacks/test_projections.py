"""Shortest ways to a hyperplane inside a box, against a bisection and SciPy's optimisers."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import linprog, minimize

from fastrobust.attacks.projections import length, to_hyperplane

NORMS = ("linf", "l2")
BOX = (0.0, 1.0)
# Rounding of what the change brings, w.d, by what its terms add up to.
ULPS = {torch.float32: 1e-6, torch.float64: 1e-14}


def by_bisection(x, w, gap, norm, clip=BOX):
    """The change of one point: as far as needed along the sign of w, or along w itself."""
    w, gap = (w, gap) if gap >= 0 else (-w, -gap)
    low, high = (-np.inf, np.inf) if clip is None else (clip[0] - x, clip[1] - x)

    def change(far):
        return np.clip(far * (np.sign(w) if norm == "linf" else w), low, high)

    near, far = 0.0, 1.0
    while w @ change(far) < gap and far < 1e12:
        far *= 2
    for _ in range(100):
        middle = (near + far) / 2
        near, far = (middle, far) if w @ change(middle) < gap else (near, middle)
    return change(far)


def one(x, w, gap, norm, clip=BOX, dtype=torch.float64):
    rows = (torch.as_tensor(np.array(v), dtype=dtype)[None] for v in (x, w, gap))
    return to_hyperplane(*rows, norm, clip)[0].double().numpy()


def cases(n, count=60, seed=0):
    """Points inside, on the edges and in the corners; weights of zero; gaps of both signs."""
    rng = np.random.default_rng(seed)
    x, w = rng.uniform(size=(count, n)), rng.normal(size=(count, n))
    x[::3] = x[::3].round()
    w *= rng.uniform(size=(count, n)) < 0.8
    return x, w, rng.normal(size=count) * n**0.5 / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [BOX, None])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [1, 2, 31, 129])
def test_it_is_what_a_bisection_finds(n, norm, clip, dtype):
    x, w, gap = (torch.as_tensor(v, dtype=dtype) for v in cases(n))
    change = to_hyperplane(x, w, gap, norm, clip)
    assert change.dtype is dtype
    reached = 0
    for row in range(len(x)):
        exact = [v[row].double().numpy() for v in (x, w, gap)]
        expected = by_bisection(*exact, norm, clip)
        tolerance = {torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
        np.testing.assert_allclose(
            change[row].numpy(), expected, rtol=tolerance, atol=tolerance * (1 + abs(gap[row]))
        )
        reached += abs(exact[1] @ expected - exact[2]) < 1e-9
    assert reached > 10
    if clip is not None:
        assert (x + change).min() >= 0 and (x + change).max() <= 1


@pytest.mark.parametrize("n", [2, 7])
def test_no_change_in_linf_is_shorter(n):
    """Linear programme: the least r with |d| <= r, w.d = gap, x + d inside the box."""
    for x, w, gap in zip(*cases(n, count=30), strict=True):
        eye, ones = np.eye(n), -np.ones((n, 1))
        found = linprog(
            np.eye(n + 1)[n],
            A_ub=np.block([[eye, ones], [-eye, ones]]),
            b_ub=np.zeros(2 * n),
            A_eq=[[*w, 0]],
            b_eq=[gap],
            bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
        )
        change = one(x, w, gap, "linf")
        if found.status == 0:
            assert abs(w @ change - gap) < 1e-12
            assert abs(np.abs(change).max() - found.fun) < 1e-9
        else:  # no point of the hyperplane in the box: what comes nearest
            assert found.status == 2
            nearest = np.where(w * np.sign(gap) > 0, 1 - x, -x) * (w != 0)
            np.testing.assert_array_equal(change, nearest)


@pytest.mark.parametrize("n", [2, 7])
def test_no_change_in_l2_is_shorter(n):
    solved = 0
    for x, w, gap in zip(*cases(n, count=30), strict=True):
        found = minimize(
            lambda d: d @ d,
            np.zeros(n),
            jac=lambda d: 2 * d,
            method="SLSQP",
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={
                "type": "eq",
                "fun": lambda d, w=w, g=gap: w @ d - g,
                "jac": lambda d, w=w: w,
            },
            options={"ftol": 1e-14},
        )
        if found.success and abs(w @ found.x - gap) < 1e-9:
            solved += 1
            np.testing.assert_allclose(one(x, w, gap, "l2"), found.x, rtol=0, atol=2e-6)
    assert solved > 10


finite = {"allow_nan": False, "allow_infinity": False}


@settings(max_examples=150, deadline=None)
@given(
    x=arrays.arrays(float, st.integers(1, 9), elements=st.floats(0, 1, width=32, **finite)),
    weights=st.lists(st.floats(-1e3, 1e3, width=32, **finite), min_size=9, max_size=9),
    gap=st.floats(-1e3, 1e3, width=32, **finite),
    norm=st.sampled_from(NORMS),
    dtype=st.sampled_from(list(ULPS)),
)
@example(np.zeros(1), [0.0] * 9, 1.0, "l2", torch.float32)  # nothing to go along
@example(np.ones(2), [1.0] * 9, 1.0, "linf", torch.float64)  # nowhere to go
@example(np.full(3, 0.5), [1.0] * 9, 0.0, "l2", torch.float64)  # there already
@example(np.full(3, 0.5), [1e-38] * 9, 1e-38, "l2", torch.float32)  # squares underflow
def test_it_stays_in_the_box_and_reaches_what_can_be_reached(x, weights, gap, norm, dtype):
    w = np.array(weights[: len(x)])
    change = one(x, w, gap, norm, dtype=dtype)
    assert np.isfinite(change).all()
    moved = (torch.tensor(x, dtype=dtype) + torch.tensor(change, dtype=dtype)).numpy()
    assert (moved >= 0).all() and (moved <= 1).all()
    most = (np.abs(w) * np.where(w * np.sign(gap) > 0, 1 - x, x)).sum()
    wanted = np.sign(gap) * min(abs(gap), most)
    assert abs(w @ change - wanted) <= ULPS[dtype] * (np.abs(w).sum() + abs(wanted))
    assert (change * w * np.sign(gap) >= 0).all()


def test_rows_do_not_see_each_other_and_scale_does_not_matter():
    x, w, gap = map(torch.from_numpy, cases(31))
    for norm in NORMS:
        together = to_hyperplane(x, w, gap, norm, BOX)
        for row in range(0, 60, 7):
            part = slice(row, row + 1)
            alone = to_hyperplane(x[part], w[part], gap[part], norm, BOX)
            assert torch.equal(alone, together[part])
        for scale in (2.0**-900, 2.0**600):  # a saturated network's gradients
            scaled = to_hyperplane(x, w * scale, gap * scale, norm, BOX)
            torch.testing.assert_close(scaled, together, rtol=1e-12, atol=1e-14)


def test_length_is_the_norm_of_each_row():
    change = torch.tensor([[[3.0, -4.0]], [[0.0, 0.0]]])
    assert length(change, "l2").tolist() == [5, 0] and length(change, "linf").tolist() == [4, 0]
