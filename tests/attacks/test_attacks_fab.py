"""FAB against its numpy rewrite, closed forms, and what must not change its result."""

import attack_table
import numpy as np
import numpy_attacks
import numpy_fab
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attacks_golden import images as golden_images
from test_attacks_golden import iterates, labels  # noqa: F401
from test_attacks_metamorphic import images, same, small_model
from test_projections import by_bisection
from torch import nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.attacks import FAB, from_repr
from fastrobust.attacks.targets import goal
from fastrobust.engine import scheduler

NORMS = ("linf", "l2")
# A bisection, and two ways to add up a dot product, a hundred steps long.
CLOSE = {"rtol": 0, "atol": 1e-9}


@pytest.fixture
def no_compaction(monkeypatch):
    monkeypatch.setattr(scheduler, "_shrunk", lambda size, *_: size)


def distances(result, norm):
    return result.l2 if norm == "l2" else result.linf


# Against the rewrite


# The last of three steps of a linear search is so near to the boundary that rounding decides it.
@pytest.mark.parametrize(("search", "tolerance"), [(1, CLOSE), (3, {"rtol": 0, "atol": 1e-5})])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", ["ce", "mse", "codeword", "linear"])
def test_every_step_is_the_rewrites(
    head,
    norm,
    search,
    tolerance,
    iterates,  # noqa: F811
    no_compaction,
    monkeypatch,
):
    monkeypatch.setattr("fastrobust.attacks.fab._FINAL_SEARCH", search)
    net, (rows, x) = numpy_attacks.Net.make(head), golden_images()
    y = labels(net, rows)
    for fields in (
        {"steps": 6},
        {"steps": 4, "targets": 2, "clip": None, "alpha_max": 0.3, "eta": 1.2, "beta": 0.5},
        {"steps": 3, "targets": 1, "alpha_max": 0.0},
    ):
        iterates.clear()
        result = FAB(norm=norm, **fields).run(net.torch(), x, torch.from_numpy(y))
        ended = 0
        for row in range(len(x)):
            asked, nearest, distance = numpy_fab.fab(
                net, rows[row], y[row], norm, search=search, **fields
            )
            ended += distance == 0
            seen = np.array(iterates)[: len(asked), row]
            np.testing.assert_allclose(seen, np.array(asked), **CLOSE)
            np.testing.assert_allclose(result.adv[row].flatten().numpy(), nearest, **tolerance)
            assert result.claimed[row] == np.isfinite(distance) == result.success[row]
        assert 0 < ended < 4
        assert len(iterates) == fields["steps"] * min(fields.get("targets", 9), 3)


def test_restarts_are_the_rewrites(iterates, no_compaction, monkeypatch):  # noqa: F811
    monkeypatch.setattr("fastrobust.attacks.fab._FINAL_SEARCH", 1)
    net, (rows, x) = numpy_attacks.Net.make("ce"), golden_images()
    y, index = labels(net, rows), torch.arange(9) * 5 + 2**34
    for eps in (0.3, 0.01):
        attack = FAB(steps=3, restarts=2, targets=2, eps=eps)
        result = attack.run(net.torch(), x, torch.from_numpy(y), seed=11, index=index)
        for row in range(9):
            asked, nearest, _ = numpy_fab.fab(
                net, rows[row], y[row], "linf", 3, 2, 2, eps,
                seed=11, index=int(index[row]), search=1,
            )  # fmt: skip
            seen = np.array(iterates)[: len(asked), row]
            np.testing.assert_allclose(seen, np.array(asked), **CLOSE)
            np.testing.assert_allclose(result.adv[row].flatten().numpy(), nearest, **CLOSE)
        iterates.clear()


# Closed forms: boundaries that are hyperplanes


def planes(classes, dtype=torch.float64, pixels=20):
    torch.manual_seed(classes)
    net = nn.Linear(pixels, classes).to(dtype)
    x = torch.rand(60, pixels, dtype=dtype)
    x[::4] = x[::4].round()
    return net, x, net(x).argmax(1)


def least(net, x, y, norm, clip):
    """Exact distance of each image from the nearest boundary inside the box, (N,)."""
    weight, scores = net.weight.detach().double(), net(x).detach().double()
    found = []
    for row, label in enumerate(y.tolist()):
        ways = []
        for rival in set(range(len(weight))) - {label}:
            w, gap = weight[rival] - weight[label], scores[row, label] - scores[row, rival]
            change = by_bisection(x[row].double().numpy(), w.numpy(), gap.item(), norm, clip)
            reached = abs(w.numpy() @ change - gap.item()) < 1e-9
            ways.append(numpy_fab.size(change, norm) if reached else np.inf)
        found.append(min(ways))
    return torch.tensor(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [(0, 1), None])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("norm", NORMS)
def test_hyperplanes_are_reached_by_the_shortest_way(norm, classes, clip, dtype):
    net, x, y = planes(classes, dtype)
    exact = least(net, x, y, norm, clip)
    result = FAB(norm=norm, clip=clip, steps=8).run(net, x, y)
    reachable = exact.isfinite()
    assert reachable.sum() > 40 and torch.equal(result.success, reachable)
    ratio = (distances(result, norm) / exact)[reachable]
    assert ratio.max() < (1.01 if clip else 1.0005) and ratio.min() > 1 - 1e-4
    assert torch.equal(result.adv[~reachable], x[~reachable])
    if clip is not None:  # the box is in the way of some
        assert ((least(net, x, y, norm, None) / exact) < 0.98).sum() > 10


def test_without_its_final_search_its_second_success_is_the_nearest(monkeypatch):
    """From 1.05 of the way back to 0.945, and on with 0.055 / 1.055 of the image's projection."""
    monkeypatch.setattr("fastrobust.attacks.fab._FINAL_SEARCH", 0)
    net, x, y = planes(2)
    alpha = 0.055 / 1.055
    expected = (1 - alpha) * (0.945 + 1.05 * 0.055) + alpha * 1.05
    for norm in NORMS:
        found = distances(FAB(norm=norm, clip=None, steps=4).run(net, x, y), norm)
        ratio = found / least(net, x, y, norm, None)
        torch.testing.assert_close(ratio, torch.full_like(ratio, expected), rtol=0, atol=1e-8)


def test_all_rivals_find_what_the_highest_does_not():
    net, x, y = planes(10)
    for norm in NORMS:
        one, three, all_ = (
            distances(FAB(norm=norm, targets=t, steps=5).run(net, x, y), norm) for t in (1, 3, 99)
        )
        assert (three <= one).all() and (all_ <= three).all()
        assert (all_ < 0.99 * one).sum() > 2


# What comes back


@settings(max_examples=30, deadline=None)
@given(
    norm=st.sampled_from(NORMS), steps=st.integers(1, 4), restarts=st.integers(1, 2),
    eps=st.floats(0, 2), alpha_max=st.floats(0, 1), eta=st.floats(0.5, 2), beta=st.floats(0, 1),
    clip=st.sampled_from([None, (0, 1), (-1, 1.5)]), double=st.booleans(),
)  # fmt: skip
def test_successes_are_in_the_box_and_failures_are_the_image(clip, double, **fields):
    dtype = torch.float64 if double else torch.float32
    x, _ = images(5, dtype)
    result = FAB(clip=clip, **fields).run(small_model(dtype), x)
    if clip is not None:
        assert result.adv.min() >= clip[0] and result.adv.max() <= clip[1]
    assert torch.equal(result.adv[~result.claimed], x[~result.claimed])
    assert torch.equal(result.success, result.claimed) and result.adv.isfinite().all()
    assert not result.adv.requires_grad and result.adv.data_ptr() != x.data_ptr()


def test_an_image_that_is_not_decided_as_its_label_comes_back():
    net, x, y = planes(10)
    wrong = torch.arange(60) % 3 == 0
    result = FAB(steps=2).run(net, x, torch.where(wrong, (y + 1) % 10, y))
    assert torch.equal(result.adv[wrong], x[wrong]) and result.success[wrong].all()
    assert (result.linf[~wrong] > 0).all()
    assert (result.queries[wrong] == 1 + 2 + 1).all()  # rivals, one look, the verdict


def test_queries_count_steps_rivals_and_the_final_search():
    net, x, y = planes(4)
    result = FAB(steps=7, targets=2, clip=None).run(net, x, y)
    assert (result.queries == 1 + 2 * 7 * 3 + 5 + 1).all()
    result = FAB(steps=7, restarts=3, clip=None).run(net, x)  # y and rivals by one forward
    assert (result.queries == 1 + 3 * 3 * 7 * 3 + 5 + 1).all()


def test_flat_runs_end_and_are_flagged_where_all_are():
    def net(x):
        """Class 1 leads nowhere, class 2 does in the first image, class 3 tries to in the third."""
        first, second, third = x.T
        scores = (
            0 * first,
            0 * first - 0.1,
            (first < 0.5) * second - 1.1,
            (third > 0.5) * second / 99,
        )
        return torch.stack(scores, 1) - torch.tensor([0, 0, 0, 0.05])

    x = torch.tensor([[0.2, 0.5, 0], [0.8, 0.5, 0], [0.8, 0.5, 1]]).double()
    result = FAB(steps=9, clip=(0, 3)).run(net, x, torch.tensor([0, 0, 0]))
    assert result.success.tolist() == [True, False, False]
    assert result.stalled.tolist() == [False, True, False]
    assert 0.6 < result.linf[0] < 0.601 and torch.equal(result.adv[1:], x[1:])
    runs = [2 + 2 + 9 * 3 + 5, 2 + 2 + 2, 9 * 3 + 2 + 2]
    assert result.queries.tolist() == [1 + cost + 1 for cost in runs]


def test_a_success_in_a_flat_place_is_one():
    def net(x):  # a slope that promises class 1 at 1, and a plateau of it from 0.3 on
        return torch.cat([0 * x, torch.where(x < 0.3, 0.1 * x - 0.1, 0 * x + 0.05)], 1)

    result = FAB(clip=None).run(net, torch.zeros(1, 1), torch.tensor([0]))
    assert result.success.all() and not result.stalled.any()
    assert result.queries.item() == 1 + 3 + 2 + 5 + 1
    assert 0.3 <= result.linf < 0.5  # by its final search


def test_a_lone_class_is_never_left():
    result = FAB(steps=3).run(nn.Linear(4, 1), torch.rand(3, 4))
    assert not result.success.any() and result.decision.tolist() == [0, 0, 0]


def test_rows_of_nan_are_flagged_and_left_alone():
    net, x, y = planes(4)
    x[:, 0] = torch.tensor([0.1, 0.9] * 30)
    y = net(x).argmax(1)

    def sometimes(x):
        return torch.where((x[:, 0] > 0.5)[:, None], torch.nan, net(x))

    with pytest.warns(UserWarning, match="NaN for 30 of 60 images"):
        result = FAB(norm="l2", steps=3).run(sometimes, x, y)
    bad = torch.arange(60) % 2 == 1
    assert torch.equal(result.invalid, bad) and torch.equal(result.adv[bad], x[bad])
    assert not result.success[bad].any() and result.success[~bad].all()


def test_fields_are_checked_and_read_back():
    assert repr(FAB()) == "FAB()"
    attack = FAB(norm="l2", steps=5, restarts=2, targets=3, eps=1, alpha_max=0, eta=2, beta=0.5)
    assert from_repr(repr(attack)) == attack
    for fields, words in (
        ({"targets": 0}, "targets must be >= 1"),
        ({"alpha_max": 1.5}, r"alpha_max must lie in \[0, 1\], got 1.5"),
        ({"beta": -0.1}, "beta must be >= 0"),
        ({"eta": 0}, "eta must be > 0"),
        ({"norm": "l1"}, "norm must be one of 'linf', 'l2'"),
    ):
        with pytest.raises(ValueError, match=words):
            FAB(**fields)
    net, x, y = planes(4)
    with pytest.raises(ValueError, match="chooses its targets itself, got a target in 60 of 60"):
        FAB().run(net, x, target=y)
    with pytest.raises(TypeError, match="FAB must be given nothing per row, got eps"):
        FAB().run(net, x, y, eps=0.1)


# What must not change it

ATTACKS = attack_table.FABS


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_batches_order_and_slots_change_nothing(attack, monkeypatch):
    model, (x, y) = small_model(), images()
    y[::5] = (y[::5] + 1) % 5  # rows that leave at once
    index = torch.arange(12) + 2**40
    result = attack.run(model, x, y, index=index, seed=3)
    assert result.success.all() and result.linf.bool().sum() == 9
    order = torch.randperm(12)
    same(attack.run(model, x[order], y[order], index=index[order], seed=3), result, order)
    for row in range(12):
        one = slice(row, row + 1)
        same(attack.run(model, x[one], y[one], index=index[one], seed=3), result, one)
    with engine.oracle(model, x.device) as network:
        work = OneByOne(attack, network, x, y, index)
        list(scheduler.run_continuous(attack, network, work, 3))
    for row in range(12):
        same(work.results[row], result, slice(row, row + 1))
    monkeypatch.setattr(scheduler, "_shrunk", lambda size, *_: size)
    same(attack.run(model, x, y, index=index, seed=3), result)


class OneByOne:
    """Work for the slots: rows one after another, judged one by one."""

    def __init__(self, attack, network, x, y, index):
        self.attack, self.network, self.x, self.y, self.index = attack, network, x, y, index
        self.next, self.results = 0, {}

    def next_rows(self, count):
        rows = torch.arange(self.next, min(self.next + count, len(self.x)))
        self.next += len(rows)
        if not len(rows):
            return None
        wish = goal(self.network, self.x[rows], self.y[rows], None)
        index = self.index[rows]
        return self.attack.start(self.network, self.x[rows], wish, seed=3, index=index), rows

    def observe(self, state, tickets):
        return ()

    def finish(self, state, tickets):
        for place, row in enumerate(tickets.tolist()):
            one = torch.tensor([place])
            self.results[row] = self.attack.assess(self.network, state.take(one), self.x[[row]])
        return ()


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_float32_follows_float64(attack):
    x, y = images(64)
    exact = attack.run(small_model(), x, y)
    single = attack.run(small_model(torch.float32), x.float(), y)
    assert single.adv.dtype is single.l2.dtype is torch.float32
    assert (single.success != exact.success).sum() <= 2
    off = (distances(single, attack.norm) / distances(exact, attack.norm) - 1).abs()
    assert (off < 1e-3).float().mean() > 0.9 and off.max() < 0.01


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_cuda_follows_the_cpu(attack):
    x, y = images(32)
    here = attack.run(small_model(), x, y)
    there = attack.run(small_model().cuda(), x.cuda(), y.cuda())
    torch.testing.assert_close(there.adv.cpu(), here.adv, rtol=0, atol=1e-6)
    assert torch.equal(there.success.cpu(), here.success)


def test_it_is_nearer_than_carlini_and_wagner_on_a_trained_network():
    import nets

    model, digits = nets.trained(), nets.digits()
    x, y = digits.x_test[:12], digits.y_test[:12]
    near = FAB(norm="l2", steps=10).run(model, x, y)
    far = fr.attacks.CWL2(binary_search_steps=4, max_steps=100, learning_rate=0.02).run(model, x, y)
    assert near.success.all()
    both = far.success & (far.l2 > 0)
    assert (near.l2 / far.l2)[both].median() < 1.02
