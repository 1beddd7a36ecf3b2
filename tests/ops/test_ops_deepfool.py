import numpy as np
import pytest
import torch

from fastrobust.ops import deepfool_, deepfool_ref_
from fastrobust.ops.deepfool_op import launch_deepfool

# Norms are summed in another order.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-14}
DTYPES = list(TOLERANCE)
SHAPES = [(0, 3, 4, 4), (1, 1), (2, 31), (31, 2), (3, 129), (2, 3, 151), (4, 3, 32, 32)]


def oracle(x, r, x0, slopes, gaps, live, lo, hi):
    """One row after the other in numpy, as cleverhans v2.1.0 has it (deepfool_attack)."""
    x, r, x0, slopes, gaps = (t.double().numpy().copy() for t in (x, r, x0, slopes, gaps))
    moved = np.zeros(len(x), bool)
    for i in range(len(x)):
        nearest, step = np.inf, None
        for k in range(len(gaps[i])):
            w, norm = slopes[i, k], np.sqrt((slopes[i, k] ** 2).sum())
            if not live[i] or norm == 0:
                continue
            if (abs(gaps[i, k]) + 0.00001) / norm < nearest:
                nearest = (abs(gaps[i, k]) + 0.00001) / norm
                step = nearest * w / norm
        if step is not None:
            moved[i] = True
            r[i] += step
            x[i] = np.clip(x0[i] + r[i], lo, hi)
    return x, r, moved


def batch(shape, rivals, dtype, device="cpu"):
    """Return x, r, x0, slopes, gaps; a slope in ten is zero, and steps are about a pixel long."""
    x0 = torch.rand(shape, dtype=dtype)
    r = 0.05 * torch.randn(shape, dtype=dtype)
    slopes = torch.randn(shape[0], rivals, *shape[1:], dtype=dtype)
    slopes[torch.rand(shape[0], rivals) < 0.1] = 0
    gaps = -torch.rand(shape[0], rivals, dtype=dtype)
    return [t.to(device) for t in (x0 + r, r, x0, slopes, gaps)]


@pytest.mark.parametrize("rivals", [1, 2, 9, 31])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_definition(dtype, shape, rivals, device):
    arguments = batch(shape, rivals, dtype, device)
    live = torch.rand(shape[0]) > 0.2
    x, r, moved = oracle(*(t.cpu() for t in arguments), live, 0.0, 1.0)
    got = deepfool_(*arguments, live.to(device))
    assert got.dtype is torch.bool and got.tolist() == moved.tolist()
    near = {"rtol": 0, "atol": TOLERANCE[dtype]}
    np.testing.assert_allclose(arguments[0].cpu().numpy(), x, **near)
    np.testing.assert_allclose(arguments[1].cpu().numpy(), r, **near)


@pytest.mark.parametrize("box", [(0.0, 1.0), (None, 0.6), (0.4, None), (None, None)])
def test_against_the_reference_over_several_steps(box, device):
    x, r, x0, *_ = batch((5, 3, 8, 8), 1, torch.float64, device)
    ours, theirs = (x.clone(), r.clone()), (x.clone(), r.clone())
    for _ in range(5):
        _, _, _, slopes, gaps = batch((5, 3, 8, 8), 4, torch.float64, device)
        moved = deepfool_(*ours, x0, slopes, gaps, None, *box)
        assert torch.equal(moved, deepfool_ref_(*theirs, x0, slopes, gaps, None, *box))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_a_step_ends_beyond_the_nearest_boundary(device):
    """Gaps are linear, so the first rival to lead is the nearest, by 1e-5."""
    x0, slopes = torch.rand(50, 20).double(), torch.randn(50, 6, 20).double()
    gaps = -torch.rand(50, 6).double()
    x, r, x0, slopes, gaps = (t.to(device) for t in (x0.clone(), 0 * x0, x0, slopes, gaps))
    deepfool_(x, r, x0, slopes, gaps, lo=None, hi=None)
    after = gaps + (slopes * (x - x0)[:, None]).sum(2)
    distance = (gaps.abs() + 1e-5) / slopes.norm(dim=2)
    nearest = distance.argmin(1, keepdim=True)
    torch.testing.assert_close(after.gather(1, nearest), torch.full_like(after[:, :1], 1e-5))
    torch.testing.assert_close(r.norm(dim=1), distance.amin(1))


def test_equally_near_rivals_go_to_the_first(device):
    x, x0 = torch.zeros(1, 3, device=device), torch.zeros(1, 3, device=device)
    slopes = torch.eye(3, device=device)[None].repeat(1, 1, 1)
    deepfool_(x, x0.clone(), x0, slopes, torch.full((1, 3), -0.5, device=device))
    assert (x > 0).tolist() == [[True, False, False]]


def test_rows_that_have_nowhere_to_go_or_are_not_live_stay(device):
    x, r, x0, slopes, gaps = batch((6, 7), 3, torch.float32, device)
    slopes[:] = 1
    slopes[1] = 0
    slopes[2, 1:], gaps[2, 0] = 0, -torch.inf  # infinitely far
    slopes[3] = 1e30  # whose squares are infinite
    slopes[4, 0] = torch.nan
    gaps[4, 1] = torch.nan
    live = torch.tensor([False, True, True, True, True, True], device=device)
    before = x.clone(), r.clone()
    moved = deepfool_(x, r, x0, slopes, gaps, live)
    assert moved.tolist() == [False, False, False, False, True, True]
    assert torch.equal(x[:4], before[0][:4]) and torch.equal(r[:4], before[1][:4])
    assert x.isfinite().all() and (r[4:] != before[1][4:]).all()
    y, q = before[0].clone(), before[1].clone()
    assert torch.equal(deepfool_ref_(y, q, x0, slopes, gaps, live), moved)
    torch.testing.assert_close((x, r), (y, q))


def test_steps_along_tiny_slopes_stay_finite(device):
    x, r, x0, slopes, gaps = batch((1, 5), 1, torch.float32, device)
    slopes[:] = torch.tensor([0.0, 0, 1e-22, 0, 0], device=device)
    deepfool_(x, r, x0, slopes, gaps)
    assert r.isfinite().all() and x[0, 2] == 1


def test_without_rivals_or_pixels_nothing_moves(device):
    for shape, rivals in (((3, 4), 0), ((3, 0), 2)):
        x, r, x0, slopes, gaps = batch(shape, rivals, torch.float32, device)
        for function in (deepfool_, deepfool_ref_):
            assert function(x, r, x0, slopes, gaps).tolist() == [False] * 3


def test_a_row_does_not_see_its_batch_nor_the_threads():
    x, r, x0, slopes, gaps = batch((40, 3, 16, 16), 9, torch.float32)

    def run(rows):
        mine = x[rows].clone(), r[rows].clone()
        deepfool_(*mine, x0[rows], slopes[rows], gaps[rows])
        return torch.cat(mine, 1)

    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append(run(slice(None)))
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])
    assert torch.equal(torch.cat([run(slice(i, i + 1)) for i in range(40)]), results[0])


def test_takes_any_strides_of_what_it_reads(device):
    x, r, x0, slopes, gaps = batch((4, 6), 3, torch.float32, device)
    live = torch.tensor([True, False] * 4, device=device)[::2]
    want = x.clone(), r.clone()
    deepfool_(*want, x0, slopes, gaps, live.clone())
    strange = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in (x0, slopes, gaps))
    deepfool_(x, r, *strange, live)
    assert torch.equal(x, want[0]) and torch.equal(r, want[1])


def test_is_a_good_citizen_of_torch(device):
    x, r, x0, slopes, gaps = batch((3, 8), 2, torch.float32, device)
    op = torch.ops.fastrobust.deepfool_.default
    live = torch.tensor([True, False, True], device=device)
    torch.library.opcheck(op, (x, r, x0, slopes, gaps, live, 0.0, None))
    torch.library.opcheck(op, (x, r, x0, slopes, gaps, None, None, 1.0))

    def attack(x, r):
        x, r = x.clone(), r.clone()
        return deepfool_(x, r, x0, slopes, gaps), x * 2, r

    compiled = torch.compile(attack, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(x, r), attack(x, r), strict=True):
        assert torch.equal(got, want)


def test_an_in_place_change_is_seen_by_autograd():
    x, r, x0, slopes, gaps = batch((2, 4), 2, torch.float32)
    for update in (deepfool_, launch_deepfool):
        versions = x._version, r._version
        update(x, r, x0, slopes, gaps)
        assert x._version > versions[0] and r._version > versions[1]


RIGHT = {
    "x": torch.rand(2, 3), "r": torch.rand(2, 3), "x0": torch.rand(2, 3),
    "slopes": torch.rand(2, 4, 3), "gaps": torch.rand(2, 4), "live": None, "lo": 0.0, "hi": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"gaps": torch.rand(2)}, ValueError, r"gaps must have shape \(N, K\), got \[2\]"),
        ({"gaps": torch.rand(3, 4)}, ValueError, r"gaps must have shape \[2, 4\], got \[3, 4\]"),
        ({"slopes": torch.rand(2, 3)}, ValueError, r"slopes must have shape \[2, 4, 3\], got"),
        ({"slopes": torch.rand(2, 4, 3).double()}, TypeError, "slopes must be float32 like x"),
        ({"x0": torch.rand(2, 4)}, ValueError, r"x0 must have shape \[2, 3\], got \[2, 4\]"),
        ({"r": torch.rand(3, 2).T}, ValueError, "r must be contiguous, as it is written in place"),
        ({"r": torch.rand(2, 3).double()}, TypeError, "r must be float32 like x, got float64"),
        ({"x": torch.rand(2, 3).half()}, TypeError, "x must be float32 or float64, got float16"),
        ({"live": torch.ones(2)}, TypeError, "live must be bool, got float32"),
        ({"live": torch.ones(3).bool()}, ValueError, r"live must have shape \[2\], got \[3\]"),
        ({"lo": 2.0}, ValueError, "lo must be <= hi, got 2 and 1"),
        ({"x0": torch.rand(2, 3, device="meta")}, RuntimeError, "x0 must be on cpu like x"),
        ({"x0": RIGHT["x"]}, ValueError, "x must not share memory with x0"),
        ({"r": RIGHT["x"]}, ValueError, "x must not share memory with r"),
        ({"x0": RIGHT["r"]}, ValueError, "r must not share memory with x0"),
    ],
)
def test_errors_say_the_wish_then_the_fact(change, error, words):
    with pytest.raises(error, match=words):
        launch_deepfool(**{**RIGHT, **change})
