"""The kernel of CWL2: against its reference through whole searches, and by closed forms."""

from dataclasses import fields, replace

import pytest
import torch

from fastrobust.ops import CwRows, cw_step_, cw_step_ref_
from fastrobust.ops.cw_step_op import launch_cw_step

DTYPES = [torch.float32, torch.float64]
SHAPES = [(1, 1), (2, 31), (31, 2), (3, 129), (2, 3, 8, 8)]
SETTINGS = {
    "iterations": 6, "searches": 4, "patience": 2, "learning_rate": 0.1, "abort_from": 1e6,
    "lo": -0.5, "hi": 1.5,
}  # fmt: skip


def batch(shape, dtype, device="cpu"):
    """Rows with pixels on the edges of the box, weights over six decades, some that end at once."""
    generator = torch.Generator().manual_seed(1)
    x0 = torch.rand(shape, dtype=dtype, generator=generator) * 3 - 1
    # float32 has few digits left for the slope of a pixel on the edge.
    x0 = x0.clamp(-0.5, 1.5) if dtype is torch.float64 else x0.clamp(-0.45, 1.45)
    const = 10 ** torch.linspace(-2, 7, shape[0], dtype=dtype)
    rows = CwRows.fresh(x0.to(device), const.to(device), SETTINGS["abort_from"])
    rows.first_success[1::3] = True
    return rows


def copy(rows):
    return replace(rows, **{f.name: getattr(rows, f.name).clone() for f in fields(rows)})


def answers(rows, step):
    """What a network might say: a loss that falls along one direction, and sometimes a hit."""
    generator = torch.Generator().manual_seed(step)
    pull = torch.randn(rows.x.shape, generator=generator, dtype=rows.x.dtype).to(rows.x)
    f = (pull * (rows.x - 0.3)).flatten(1).sum(1) + (step % 5)
    hit = torch.rand(len(f), generator=generator).to(f.device) < 0.2
    return pull, f, hit


def assert_same(ours, theirs, **tolerance):
    for field in fields(CwRows):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        torch.testing.assert_close(a, b, msg=lambda m, f=field: f"{f.name}: {m}", **tolerance)


def test_a_long_search_is_the_references_too(device):
    """From ten steps on, the last one takes the smallest c that succeeded."""
    ours = batch((5, 7), torch.float64, device)
    theirs, settings = copy(ours), {**SETTINGS, "iterations": 2, "searches": 11}
    for step in range(1 + 11 * 2):
        told = answers(theirs, step)
        cw_step_(ours, *told, **settings)
        cw_step_ref_(theirs, *told, **settings)
        assert_same(ours, theirs, rtol=1e-9, atol=1e-9)
    assert ended(ours, 11).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_reference_through_a_whole_search(shape, dtype, device):
    ours = batch(shape, dtype, device)
    theirs = copy(ours)
    near = {"rtol": 1e-10, "atol": 1e-10}
    if dtype is torch.float32:  # cosh in double against our slope, 24 steps long
        near = {"rtol": 2e-3, "atol": 2e-3}
    steps = 0
    while not ended(ours, SETTINGS["searches"]).all():
        told = answers(theirs, steps)
        cw_step_(ours, *told, **SETTINGS)
        cw_step_ref_(theirs, *told, **SETTINGS)
        assert_same(ours, theirs, **near)
        steps += 1
    assert 4 < steps <= 1 + 4 * 6
    before = copy(ours)
    cw_step_(ours, *answers(ours, 99), **SETTINGS)  # done: nothing moves any more
    assert_same(ours, before, rtol=0, atol=0)


def ended(rows, searches):
    return (rows.search >= searches) | (rows.first_success & rows.won)


def run(rows, told, count=None, **settings):
    """Call the kernel until all rows are done, or `count` times."""
    settings = {**SETTINGS, "patience": 0, "lo": 0.0, "hi": 1.0, **settings}
    calls = 0
    while not ended(rows, settings["searches"]).all() and calls != count:
        cw_step_(rows, *told(rows), **settings)
        calls += 1
    return calls


def told_by(hits):
    """Say f = 1 without gradient, and hit where `hits` of c says so."""
    return lambda rows: (
        torch.zeros_like(rows.x), torch.ones_like(rows.best_f), hits(rows.const)
    )  # fmt: skip


def test_the_first_call_places_the_row_as_cleverhans_does():
    x0 = torch.tensor([[0.0, 1.0, 0.25]]).double()
    rows = CwRows.fresh(x0, torch.ones(1).double())
    run(rows, told_by(lambda c: c > 0), count=1)
    wanted = torch.atanh(0.999999 * (2 * x0 - 1))
    torch.testing.assert_close(rows.w, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(rows.x, (rows.w.tanh() + 1) / 2, rtol=0, atol=1e-12)
    assert rows.search.item() == 0 and rows.t.item() == 0 and rows.best_l2.item() == torch.inf


@pytest.mark.parametrize(("least", "found"), [(0.3, [0.01, 0.1, 1, 0.55, 0.325]), (1e9, None)])
def test_the_search_halves_between_failure_and_success(least, found):
    """c goes up tenfold until it succeeds, then halfway: cleverhans' five steps."""
    rows = CwRows.fresh(torch.rand(1, 3).double(), torch.tensor([0.01]).double())
    seen = []

    def told(rows):
        seen.append(rows.const.item())
        return told_by(lambda c: c >= least)(rows)

    run(rows, told, iterations=1, searches=5)
    wanted = found or [0.01, 0.1, 1, 10, 100]
    assert seen[1:] == pytest.approx(wanted)
    assert rows.won.item() == (found is not None)


def test_a_long_search_ends_at_the_smallest_success():
    rows = CwRows.fresh(torch.rand(1, 3).double(), torch.tensor([0.01]).double())
    seen = []

    def told(rows):
        seen.append(rows.const.item())
        return told_by(lambda c: c >= 0.3)(rows)

    run(rows, told, iterations=1, searches=12)
    assert len(seen) == 13
    assert seen[-1] == min(c for c in seen if c >= 0.3)


def test_adam_is_that_of_tensorflow():
    """One pixel, constant gradient: m_hat / sqrt(v_hat) = 1, epsilon outside of the correction."""
    rows = CwRows.fresh(torch.full((1, 1), 0.5).double(), torch.ones(1).double())
    grad = torch.full((1, 1), 1e-7).double()
    told = (grad, torch.ones(1).double(), torch.zeros(1, dtype=torch.bool))
    for _ in range(2):
        cw_step_(rows, *told, **{**SETTINGS, "lo": 0.0, "hi": 1.0, "patience": 0})
    dw = 1e-7 / 2
    rate = 0.1 * (1 - 0.999) ** 0.5 / (1 - 0.9)
    wanted = -rate * 0.1 * dw / ((0.001 * dw**2) ** 0.5 + 1e-8)
    torch.testing.assert_close(rows.w.item(), wanted, rtol=1e-6, atol=0)
    assert -0.05 < wanted < -0.005  # far from the 0.1 of Adam's usual form


def test_progress_is_judged_against_what_the_first_look_compares_with():
    for abort_from, ended in ((1e6, True), (torch.inf, False)):
        rows = CwRows.fresh(torch.rand(1, 3).double(), torch.tensor([2e6]).double(), abort_from)
        for _ in range(2):
            settings = {**SETTINGS, "abort_from": abort_from, "lo": 0.0, "hi": 1.0}
            cw_step_(rows, *told_by(lambda c: c > 0)(rows), **settings)
        assert (rows.search.item() == 1) is ended and rows.won.item() is not ended


def test_the_image_of_least_loss_is_kept_until_a_success():
    rows = CwRows.fresh(torch.full((1, 2), 0.5).double(), torch.ones(1).double())
    losses, hits = [3, 2, 2, 5, 9, 1], [False] * 4 + [True, False]
    images, settings = [], {**SETTINGS, "lo": 0.0, "hi": 1.0, "patience": 0, "iterations": 99}
    for loss, hit in zip([0, *losses], [False, *hits], strict=True):
        images.append(rows.x.clone())
        told = torch.ones(1, 2).double(), torch.tensor([loss]).double(), torch.tensor([hit])
        cw_step_(rows, *told, **settings)
        step = len(images) - 1
        if step:  # least loss first, at equal loss the nearer, a hit above all
            assert torch.equal(rows.best, images[{1: 1, 2: 2, 3: 2, 4: 2, 5: 5, 6: 5}[step]])


def test_a_hasty_row_ends_at_its_first_success():
    rows = batch((6, 4), torch.float64)
    rows.first_success[:] = torch.arange(6) % 2 == 0
    cw_step_(rows, *answers(rows, 0), **SETTINGS)
    pull, f, hit = answers(rows, 1)
    cw_step_(rows, pull, f, torch.ones_like(hit), **{**SETTINGS, "patience": 0})
    assert torch.equal(ended(rows, 4), rows.first_success) and rows.won.all()
    assert torch.equal(rows.search == 1, rows.first_success)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_see_its_batch_nor_the_threads(dtype):
    def whole(threads):
        torch.set_num_threads(threads)
        rows = batch((40, 3, 16, 16), dtype)
        for step in range(12):
            cw_step_(rows, *answers(rows, step), **SETTINGS)
        return rows

    threads = torch.get_num_threads()
    one, two = whole(1), whole(2)
    torch.set_num_threads(threads)
    assert_same(one, two, rtol=0, atol=0)
    again = batch((40, 3, 16, 16), dtype)
    singles = [
        replace(again, **{f.name: getattr(again, f.name)[i : i + 1] for f in fields(again)})
        for i in range(40)
    ]
    for step in range(12):
        told = answers(again, step)
        for i, single in enumerate(singles):
            cw_step_(single, *(t[i : i + 1] for t in told), **SETTINGS)
    assert_same(one, again, rtol=0, atol=0)


def test_nan_stays_in_its_row():
    rows, clean = batch((5, 7), torch.float32), batch((5, 7), torch.float32)
    for step in range(9):
        pull, f, hit = answers(clean, step)
        cw_step_(clean, pull, f, hit, **SETTINGS)
        pull, f = pull.clone(), f.clone()
        pull[2], f[3] = torch.nan, torch.nan
        cw_step_(rows, pull, f, hit, **SETTINGS)
    for name in ("x", "w", "best", "const", "search"):
        kept = [0, 1, 4]
        assert torch.equal(getattr(rows, name)[kept], getattr(clean, name)[kept])


def test_an_empty_batch_is_fine(device):
    rows = batch((0, 3), torch.float32, device)
    cw_step_(rows, *(torch.empty_like(t) for t in (rows.x, rows.best_f, rows.won)), **SETTINGS)


def test_is_a_good_citizen_of_torch(device):
    rows = batch((3, 8), torch.float32, device)
    pull, f, hit = answers(rows, 0)
    names = [field.name for field in fields(CwRows)][2:]
    order = ("x", "w", "m", "v", "origin", "best", "best_l2", "best_f", "loss", "const", "lower",
             "upper", "t", "search", "found", "won")  # fmt: skip
    assert sorted(order) == sorted(names)
    written = [getattr(rows, name) for name in order]
    arguments = (*written, rows.x0, pull, f, hit, rows.first_success, 6, 4, 2, 0.1, 1e6, 0.0, 1.0)
    torch.library.opcheck(torch.ops.fastrobust.cw_step_.default, arguments)
    version = rows.x._version
    launch_cw_step(rows, pull, f, hit, 6, 4, 2, 0.1, 1e6, 0.0, 1.0)
    assert rows.x._version > version


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"grad": torch.rand(2, 4)}, ValueError, r"grad must have shape \[2, 3\], got \[2, 4\]"),
        ({"grad": torch.rand(2, 3).double()}, TypeError, "grad must be float32 like x"),
        ({"f": torch.rand(3)}, ValueError, r"f must have shape \[2\]"),
        ({"hit": torch.zeros(2)}, TypeError, "hit must be bool, got float32"),
        ({"hit": torch.zeros(3, dtype=torch.bool)}, ValueError, r"hit must have shape \[2\]"),
        ({"iterations": 0}, ValueError, "iterations and searches must be >= 1"),
        ({"lo": 2.0}, ValueError, "lo must be < hi and both finite, got 2 and 1.5"),
        ({"hi": torch.inf}, ValueError, "lo must be < hi and both finite"),
        ({"w": torch.rand(3, 2).T}, ValueError, "w must be contiguous, as it is written in place"),
        ({"t": torch.zeros(2)}, TypeError, "t must be int64, got float32"),
        ({"const": torch.ones(2)}, TypeError, "const must be float64, got float32"),
        ({"x0": torch.rand(2, 3, device="meta")}, RuntimeError, "x0 must be on cpu like x"),
    ],
)
def test_errors_say_the_wish_then_the_fact(change, error, words):
    rows = CwRows.fresh(torch.rand(2, 3), torch.ones(2))
    told = {"grad": torch.rand(2, 3), "f": torch.rand(2), "hit": rows.won.clone()}
    for name, value in change.items():
        if name in told:
            told[name] = value
        elif hasattr(rows, name):
            setattr(rows, name, value)
    settings = {k: v for k, v in change.items() if k in ("iterations", "lo", "hi")}
    with pytest.raises(error, match=words):
        launch_cw_step(rows, **told, **{**SETTINGS, **settings})
