"""The Square attack against its numpy rewrite, closed forms, and what it must never do."""

from dataclasses import replace

import numpy as np
import numpy_attacks
import numpy_square
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attacks_linear import linear, margin, normal
from test_attacks_metamorphic import images, small_model
from torch import nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.attacks import Square, from_repr, square, square_windows
from fastrobust.engine import gradients, scheduler

NORMS = ("linf", "l2")
# Two ways to add up squares, through a hundred changes.
CLOSE = {"linf": {"rtol": 0, "atol": 1e-13}, "l2": {"rtol": 0, "atol": 1e-9}}


@pytest.fixture
def questions(monkeypatch):
    """Return the images of every question; there must be none about gradients."""
    seen, ask = [], gradients.Oracle.score

    def spy(oracle, x, *rest, **named):
        seen.append(x.clone())
        return ask(oracle, x, *rest, **named)

    def never(*_, **__):
        raise AssertionError("a gradient was asked for")

    monkeypatch.setattr(gradients.Oracle, "score", spy)
    monkeypatch.setattr(gradients.Oracle, "gradient", never)
    monkeypatch.setattr(gradients.Oracle, "_backward", never)
    return seen


# Against the rewrite


def net_for(pixels, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (8, pixels), (8,), (4, 8), (4,)
    return numpy_attacks.Net(*(rng.normal(size=shape) for shape in shapes), "ce", np.eye(4))


@pytest.mark.parametrize(
    "shape", [(1, 10, 13), (1, 17, 15), (3, 11, 8), (2, 1, 30), (5, 9), (40,)], ids=str
)
@pytest.mark.parametrize("norm", NORMS)
def test_every_query_is_the_rewrites(norm, shape, questions, monkeypatch):
    monkeypatch.setattr(scheduler, "_shrunk", lambda size, *_: size)
    pixels = int(np.prod(shape))
    planes = (1,) * (3 - len(shape)) + shape
    net = net_for(pixels)
    rows = np.random.default_rng(1).uniform(-0.2, 1.2, (8, pixels)).clip(0, 1)
    y, index = net.judge(rows, np.zeros(8, int), "ce")[2], torch.arange(8) * 3 + 2**35
    x, won = torch.from_numpy(rows).view(8, *shape), []
    model, small, large = net.torch(), {"linf": (0.02, 0.1), "l2": (0.2, 1.0)}[norm], 5.0
    for eps, fields in (
        (small[0], {"queries": 150, "restarts": 2}),
        (small[1], {"queries": 60, "p_init": 0.3, "clip": None}),
        (large, {"queries": 3}),
    ):
        questions.clear()
        attack = Square(eps, norm=norm, **fields)
        result = attack.run(model, x, torch.from_numpy(y), seed=9, index=index)
        for row in range(8):

            def judge(image, row=row):
                loss, _, decision = net.judge(image.reshape(1, -1), y[[row]], "margin")
                return loss[0], decision[0]

            asked, best, success = numpy_square.square(
                judge, rows[row].reshape(planes), y[row], eps, norm,
                seed=9, index=int(index[row]), **fields,
            )  # fmt: skip
            seen = torch.stack([x[row].view(planes) for x in questions[: len(asked)]])
            np.testing.assert_allclose(seen.numpy(), np.array(asked), **CLOSE[norm])
            np.testing.assert_allclose(result.adv[row].view(planes).numpy(), best, **CLOSE[norm])
            assert success == result.success[row] == result.claimed[row]
            assert result.queries[row] == len(asked) + 1
            won.append(success)
    assert 5 < sum(won) < 23


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("tall", "wide"), [(1, 1), (1, 4), (2, 2), (3, 3), (7, 7), (5, 8), (9, 3)])
@pytest.mark.parametrize("turned", [False, True])
def test_bumps_are_equation_two(tall, wide, turned, dtype):
    sizes = (torch.full((2,), size) for size in (tall, wide))
    corner = torch.tensor([[0.0, 0.0], [0.999, 0.5]])
    places = square_windows.windows(*sizes, corner, 9, 10)
    made = square_windows.bumps(places, torch.full((2,), turned), dtype)[:, 0].double().numpy()
    expected = numpy_square.bumps(tall, wide, turned)
    for image, top, left in zip(made, (0, 9 - tall), (0, (11 - wide) // 2), strict=True):
        wanted = np.zeros((9, 10))
        wanted[top : top + tall, left : left + wide] = expected
        np.testing.assert_allclose(
            image, wanted, rtol=0, atol=1e-6 if dtype is torch.float32 else 1e-14
        )


def test_windows_shrink_as_the_paper_says():
    # Sides of 0.8, 0.4, 0.2 and 0.8 / 512 of 10,000 pixels.
    for queries, proposals, wanted in (
        (10000, [0, 10, 11, 50, 51, 9999], [89, 89, 63, 63, 45, 4]),
        (5000, [0, 5, 6, 4999], [89, 89, 63, 4]),
    ):
        found = square._sizes(queries, 0.8, 100, 100, False, torch.device("cpu"))
        assert len(found) == queries
        assert found[proposals].tolist() == [[side, side] for side in wanted]
    area = torch.tensor([0.0, 1, 16, 20, 500]).double()
    tall, wide = square_windows.sides(area, 8, 8, bumpy=False)
    assert tall.tolist() == wide.tolist() == [1, 1, 4, 4, 8]
    tall, wide = square_windows.sides(area, 8, 8, bumpy=True)
    assert tall.tolist() == wide.tolist() == [3, 3, 5, 5, 8]
    tall, wide = square_windows.sides(area, 2, 30, bumpy=False)
    assert tall.tolist() == [1, 1, 2, 2, 2] and wide.tolist() == [1, 1, 8, 8, 30]


def test_places_and_colours_are_evenly_drawn():
    """Chi squared over the places of a window and over the signs of its channels."""
    attack, count = Square(0.1), 20000
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2))
    x = torch.rand(1, 2, 3, 4)
    with engine.oracle(model, x.device) as network:
        from fastrobust.attacks.targets import goal

        wish = goal(network, x, torch.tensor([0]), None)
        state = attack.start(network, x, wish)
    state = state.take(torch.zeros(count, dtype=torch.int64))
    state.index.copy_(torch.arange(count))
    draw = attack._draw(state, 7)
    tall, wide = (torch.full((count,), size) for size in (2, 2))
    for columns, cells in (((0, 1), 6), ((2, 3), 6)):
        places = square_windows.windows(tall, wide, (draw[:, columns] + 1) / 2, 3, 4)
        cell = -places.down[:, 0] * 3 - places.across[:, 0]
        assert chi2(cell.bincount(minlength=cells)) < 20.5  # 5 degrees: once in a thousand seeds
    signs = (draw[:, 4:] < 0).long() @ torch.tensor([1, 2, 4])
    assert chi2(signs.bincount(minlength=8)) < 24.3


def chi2(counts):
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


# Closed forms


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("boxed", [False, True])
def test_linf_reaches_the_smallest_margin_of_a_hyperplane(boxed, targeted, questions):
    """With single pixels at last, a random search finds each pixel's better side."""
    net, x = linear(), torch.rand(100, 20).double()
    y = net(x).argmax(1)
    w = normal(net, y)
    attack = Square(0.1, queries=500, clip=(0, 1) if boxed else None)
    wish = {"target": 1 - y} if targeted else {"y": y}
    result = attack.run(net, x, **wish)
    reach = torch.full_like(x, 0.1)
    if boxed:
        reach = torch.where(w > 0, x, 1 - x).clamp(max=0.1)
    smallest = margin(net, x, y) - (w.abs() * reach).sum(1)
    assert torch.equal(result.success, smallest < 0)
    assert 10 < result.success.sum() < 90
    held = ~result.success
    torch.testing.assert_close(margin(net, result.adv[held], y[held]), smallest[held])
    assert (result.queries[held] == 501).all() and (result.queries[~held] < 501).all()
    assert len(questions) == 500


@pytest.mark.parametrize("clip", [(0, 1), None])
def test_l2_breaks_a_smooth_hyperplane_where_there_is_enough_room(clip):
    """Never below the exact distance, always from 1.5 times it: bumps are no sine."""
    wave = (torch.arange(8) / 2).sin().double()
    weight = (wave[:, None] * wave.roll(1)).flatten()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    net[1].weight.data.copy_(torch.stack([weight, -weight]))
    x = 0.3 + 0.4 * torch.rand(60, 1, 8, 8).double()
    net[1].bias.data.copy_(-net[1].weight.data.sum(1) / 2)
    y = net(x).argmax(1)
    exact = margin(net, x, y) / normal(net[1], y).norm(dim=1)
    attack = Square(1.0, norm="l2", queries=500, clip=clip)
    assert not attack.run(net, x, y, eps=exact * (1 - 1e-9)).success.any()
    assert attack.run(net, x, y, eps=exact * 1.5).success.all()


# What it must never do


@settings(max_examples=40, deadline=None)
@given(
    eps=st.floats(0, 2), norm=st.sampled_from(NORMS), queries=st.integers(1, 12),
    p_init=st.floats(0, 1), restarts=st.integers(1, 2),
    clip=st.sampled_from([None, (0, 1), (-1, 1.5)]), double=st.booleans(),
)  # fmt: skip
def test_adv_stays_in_box_and_ball(eps, norm, clip, double, **fields):
    dtype = torch.float64 if double else torch.float32
    x, _ = images(5, dtype)
    result = Square(eps, norm=norm, clip=clip, **fields).run(small_model(dtype), x)
    slack = 4 * torch.finfo(dtype).eps * (1 + eps)
    assert ((result.linf if norm == "linf" else result.l2) <= eps + slack).all()
    if clip is not None:
        assert result.adv.min() >= clip[0] and result.adv.max() <= clip[1]
    assert torch.equal(result.success, result.claimed) and result.adv.isfinite().all()
    assert not result.adv.requires_grad and result.adv.data_ptr() != x.data_ptr()


def test_it_takes_a_black_box(questions):
    """Scores without a graph are enough, and each question costs one forward."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    calls = 0

    def black_box(x):
        nonlocal calls
        calls += len(x)
        with torch.no_grad():
            return net(x).clone()

    x = torch.rand(6, 1, 4, 4)
    y = net(x).argmax(1)
    result = Square(0.001, queries=20).run(black_box, x, y)
    assert not result.success.any() and (result.queries == 21).all()
    assert calls == 6 * 21 + 1  # one to count the classes


def test_more_queries_and_restarts_never_make_it_worse():
    model, (x, y) = small_model(), images(60)
    attack = Square(0.04, queries=20)

    def outcome(attack):
        result = attack.run(model, x, y)
        with engine.oracle(model, x.device) as network:
            return result, network.score(result.adv, y, "margin", x.new_ones(60)).loss

    one, loss = outcome(attack)
    many, loss_many = outcome(replace(attack, restarts=5))
    assert 5 < one.success.sum() < many.success.sum()
    assert torch.equal(many.adv[one.success], one.adv[one.success])
    held = ~many.success
    assert (loss_many[held] >= loss[held]).all() and (loss_many > loss)[held].any()
    assert (many.queries[held] == 101).all()


def test_fields_are_checked_and_read_back():
    assert repr(Square(8 / 255)) == f"Square(eps={8 / 255!r})"
    attack = Square(0.1, norm="l2", loss="ce", queries=7, p_init=0.05, restarts=2, clip=None)
    assert from_repr(repr(attack)) == attack
    for fields, words in (
        ({"queries": 0}, "queries must be >= 1, got 0"),
        ({"p_init": 1.1}, r"p_init must lie in \[0, 1\], got 1.1"),
        ({"norm": "l1"}, "norm must be one of 'linf', 'l2'"),
    ):
        with pytest.raises(ValueError, match=words):
            Square(0.1, **fields)


def test_a_codeword_model_is_attacked_by_what_it_decodes(questions):
    book = fr.Codebook.random(4, 16, key="square")
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16))
    net[1].weight.data *= 20  # saturated: a gradient would be all but zero
    model = fr.Classifier(net, fr.heads.Codeword(book))
    x = torch.rand(20, 1, 6, 6)
    result = Square(0.2, queries=100).run(model, x)
    assert torch.equal(result.success, result.claimed) and result.success.sum() > 10
