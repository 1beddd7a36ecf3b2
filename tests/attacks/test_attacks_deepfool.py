"""DeepFool against its numpy rewrite, closed forms, and what must not change its result."""

from dataclasses import fields, replace

import attack_table
import numpy as np
import numpy_attacks
import numpy_search
import pytest
import torch
from test_attacks_golden import images as golden_images
from test_attacks_metamorphic import images, same, small_model
from torch import nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.attacks import DeepFool, from_repr
from fastrobust.attacks.targets import goal
from fastrobust.engine import backends, gradients, scheduler

HEADS = ("ce", "mse", "codeword", "linear")
VIEWS = ("class", "units")
EXACT = {"rtol": 0, "atol": 1e-9}


@pytest.fixture
def no_compaction(monkeypatch):
    monkeypatch.setattr(scheduler, "_shrunk", lambda size, *_: size)


@pytest.fixture
def iterates(monkeypatch):
    """Return the images (N, n) at which slopes were asked for."""
    seen, ask = [], gradients.Oracle.leaders

    def spy(oracle, x, *rest):
        seen.append(x.flatten(1).numpy().copy())
        return ask(oracle, x, *rest)

    monkeypatch.setattr(gradients.Oracle, "leaders", spy)
    return seen


# Against the rewrite


@pytest.mark.parametrize("clip", [(0, 1), None], ids=["box", "no box"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("head", HEADS)
def test_every_step_is_the_rewrites(head, view, clip, iterates, no_compaction):
    net, (rows, x) = numpy_attacks.Net.make(head), golden_images()
    outputs = 16 if (head, view) == ("codeword", "units") else numpy_attacks.CLASSES
    for candidates, overshoot, steps in ((outputs, 0.02, 30), (2, 0.3, 7), (3, 0.0, 7)):
        original = numpy_search.outputs(net, rows, view)[0].argmax(1)
        attack = DeepFool(steps, candidates, overshoot, view, clip)
        trace, results = numpy_search.deepfool(
            net, rows, original, view, candidates, overshoot, clip, steps
        )
        iterates.clear()
        attack.run(net.torch(), x)
        # A step along an all but flat slope may be a hundred pixels long, into a region where every
        # slope is the rounding of a saturated tanh: such rows are left out.
        sane = np.abs(trace).max((0, 2)) < 2
        assert sane.sum() > 4 and (clip is None or sane.all()) and len(iterates) == len(trace)
        np.testing.assert_allclose(np.array(iterates)[:, sane], np.array(trace)[:, sane], **EXACT)
        for number in {1, 2, 5, len(results) - 1} & set(range(1, len(results))):
            result = replace(attack, max_steps=number).run(net.torch(), x)
            adv, left = results[number]
            np.testing.assert_allclose(result.adv.flatten(1).numpy()[sane], adv[sane], **EXACT)
            assert result.claimed[sane].tolist() == left[sane].tolist()


def test_queries_count_a_forward_and_the_rivals_backwards_and_the_test():
    net, (rows, x) = numpy_attacks.Net.make("codeword"), golden_images(40)
    decided = numpy_search.outputs(net, rows, "class")[0].argmax(1)
    y = np.where(np.arange(40) % 8 == 0, (decided + 1) % numpy_attacks.CLASSES, decided)
    _, results = numpy_search.deepfool(net, rows, y, "class", 4, 0.02, (0, 1), 12)
    steps = [next((s for s, r in enumerate(results) if r[1][row]), 12) for row in range(40)]
    assert steps.count(0) == 5 and len(set(steps)) > 4
    result = DeepFool(max_steps=12, candidates=4).run(net.torch(), x, torch.from_numpy(y))
    # A row that is not at its label has cost the slopes that showed it; and all have a verdict.
    wanted = [(5 * s if s else 4) + 1 for s in steps]
    assert result.queries.tolist() == wanted
    guessed = DeepFool(max_steps=12, candidates=4).run(net.torch(), x)
    kept = torch.from_numpy(y == decided)
    assert torch.equal(guessed.queries[kept], result.queries[kept] + 1)
    units = DeepFool(max_steps=1, candidates=3, view="units").run(net.torch(), x)
    assert units.queries.tolist() == [1 + 4 + 1] * 40  # the label's forward is the guess's


@pytest.mark.parametrize("view", VIEWS)
def test_rows_that_do_not_start_at_their_label_come_back(view):
    net, (rows, x) = numpy_attacks.Net.make("ce"), golden_images()
    decided = torch.from_numpy(numpy_search.outputs(net, rows, view)[0].argmax(1))
    y = (decided + (torch.arange(9) % 2)) % numpy_attacks.CLASSES
    wrong = y != decided
    result = DeepFool(candidates=4, view=view, max_steps=30).run(net.torch(), x, y)
    assert torch.equal(result.adv[wrong], x[wrong]) and result.success[wrong].all()
    assert result.claimed[wrong].all() and (result.l2[~wrong] > 0).all()


# Closed forms: boundaries that are hyperplanes


class LinearCodewords(fr.heads.Head):
    """Codeword targets without the tanh: nearest-codeword regions are polyhedra."""

    def __init__(self, vectors):
        super().__init__("none", "mse", vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", ["linear", "codewords", "units of codewords"])
def test_hyperplanes_are_reached_by_the_shortest_way(name, classes, dtype):
    torch.manual_seed(classes)
    width = classes if name == "linear" else 32
    net = nn.Linear(20, width)
    net.weight.data *= 8
    vectors = fr.Codebook.random(classes, width, key="planes").vectors
    head = fr.heads.Linear() if name == "linear" else LinearCodewords(vectors)
    model = fr.Classifier(net, head).to(dtype)
    weight, bias = net.weight.detach().double(), net.bias.detach().double()
    if name == "codewords":
        vectors = vectors.double() / (width / 12)
        bias = vectors @ bias - vectors.square().sum(1) / 2 * (width / 12)
        weight = vectors @ weight
    x = torch.rand(100, 20, dtype=dtype)
    scores = x.double() @ weight.T + bias
    top = scores.argmax(1)
    norms = (weight[top][:, None] - weight).norm(dim=2)
    gaps = scores.amax(1, keepdim=True) - scores
    distance = (gaps / norms).masked_fill(norms == 0, torch.inf).amin(1)
    view = "units" if name.startswith("units") else "class"
    attack = DeepFool(candidates=len(weight), view=view, clip=None)
    result = attack.run(model, x)
    assert result.claimed.all() and (view == "units" or result.success.all())
    # All but those that touch their boundary, where the constant 1e-5 counts.
    far = distance > 1e-2
    assert far.float().mean() > 0.8
    ratio = result.l2.double() / distance
    assert ratio.min() > 1 and ratio[far].max() < 1.03
    if name == "linear":
        boxed = replace(attack, clip=(0, 1)).run(model, x)
        inside = ((result.adv >= 0) & (result.adv <= 1)).all(1)
        torch.testing.assert_close(boxed.adv[inside], result.adv[inside])
        assert (boxed.l2.double() >= distance)[boxed.success].all()


# What changes nothing

ATTACKS = attack_table.DEEPFOOL


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_order_batch_and_compaction_change_nothing(attack, monkeypatch):
    model, (x, y) = small_model(), images(24)
    y = torch.where(torch.arange(24) % 6 == 0, (y + 1) % 5, y)
    whole = attack.run(model, x, y)
    assert whole.queries.unique().numel() > 2
    order = torch.randperm(len(x))
    same(attack.run(model, x[order], y[order]), whole, order)
    for row in range(len(x)):
        same(attack.run(model, x[row : row + 1], y[row : row + 1]), whole, slice(row, row + 1))
    monkeypatch.setattr(backends, "CHUNK_PIXELS", 5 * 16)
    same(attack.run(model, x, y), whole)
    monkeypatch.setattr(scheduler, "_shrunk", lambda size, *_: size)
    same(attack.run(model, x, y), whole)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_float32_follows_float64(attack):
    x, y = images(64)
    exact = attack.run(small_model(), x, y)
    single = attack.run(small_model(torch.float32), x.float(), y)
    assert single.adv.dtype is single.l2.dtype is torch.float32
    assert (single.success != exact.success).sum() <= 2
    near = (single.adv - exact.adv).abs().flatten(1).amax(1) < 1e-3 * (1 + exact.linf)
    assert near.float().mean() > 0.9


def test_the_caller_notices_nothing():
    model, (x, y) = small_model(), images()
    model.train()
    before = [p.clone() for p in model.parameters()]
    state, image = torch.get_rng_state(), x.clone().requires_grad_()
    adv = DeepFool(candidates=5)(model, image, y)
    assert not adv.requires_grad and torch.equal(image, x) and image.grad is None
    assert torch.equal(torch.get_rng_state(), state) and model.training
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert parameter.requires_grad and parameter.grad is None
        assert torch.equal(parameter, value)


def test_images_and_model_of_other_dtypes():
    x, y = images(8)
    exact = DeepFool(candidates=5).run(small_model(), x, y)
    mixed = DeepFool(candidates=5).run(small_model(), x.float(), y)
    torch.testing.assert_close(mixed.adv.double(), exact.adv, rtol=0, atol=1e-4)
    half = DeepFool(candidates=5).run(small_model(torch.float32), x.half(), y)
    assert half.adv.dtype is torch.float16
    torch.testing.assert_close(half.adv.double(), exact.adv, rtol=0, atol=2e-3)


# One run holds the shorter ones


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("head", ["ce", "codeword"])
def test_a_shorter_run_is_what_a_longer_one_holds_by_then(head, view, no_compaction):
    assert DeepFool.prefix == "max_steps"
    model, (_, x) = numpy_attacks.Net.make(head).torch(), golden_images(40)
    longest = DeepFool(max_steps=40, candidates=4, view=view)
    with engine.oracle(model, x.device) as network:
        state = longest.start(network, x.clone(), goal(network, x, None, None))
        for step in range(1, 41):
            held = longest.done(state).nonzero().flatten()
            before = state.take(held)
            longest.update(network, state)
            after = state.take(held)
            for field in fields(state):
                kept, now = getattr(before, field.name), getattr(after, field.name)
                assert kept is None or torch.equal(torch.as_tensor(kept), torch.as_tensor(now))
            if step % 10:
                continue
            assert (state.iteration[~longest.done(state)] == step).all()
            shorter = replace(longest, max_steps=step).run(model, x)
            assert torch.equal(longest.adversarial(network, state), shorter.adv)
            assert torch.equal(state.left, shorter.claimed)
            assert torch.equal(state.queries + 1, shorter.queries)
        steps = state.iteration
    assert steps.max() > 20 and steps.min() < 10


# What stops an image


def plateau(x):
    """Two classes: flat where the first pixel is below a half, else a plane."""
    return torch.stack([torch.full_like(x[:, 0], 0.1), (x[:, 0] - 0.5).relu()], 1)


def test_flat_images_stop_and_are_flagged():
    x = torch.tensor([[0.2, 0.3], [0.55, 0.3], [0.5, 0.0], [0.9, 0.0]])
    result = DeepFool(candidates=2).run(plateau, x)
    flat = torch.tensor([True, False, True, False])
    assert torch.equal(result.stalled, flat)
    assert torch.equal(result.adv[flat], x[flat])
    assert torch.equal(result.claimed, ~flat) and torch.equal(result.success, ~flat)
    torch.testing.assert_close(
        result.l2[~flat], 1.02 * torch.tensor([0.05, 0.3]), rtol=0, atol=2e-5
    )
    assert result.queries.tolist() == [1 + 2 + 1, 1 + 3 + 1, 1 + 2 + 1, 1 + 3 + 1]


def test_saturated_codewords_still_have_slopes_in_float32():
    model = small_model(torch.float32)
    model.net[4].weight.data *= 8  # 1 - tanh(z)^2 is zero for many units
    x, _ = images(16, torch.float32)
    y = model.predict(x)
    assert (model.eval().units(x).abs() == 1).float().mean() > 0.3
    result = DeepFool(candidates=5, clip=None).run(model, x, y)
    assert not result.stalled.any() and result.adv.isfinite().all()
    assert result.success.float().mean() > 0.8


def test_nan_rows_are_flagged_and_poison_no_other():
    model, (x, y) = small_model().eval(), images(8)

    def sometimes(x):
        return torch.where((x[:, 0, 0, 0] > 0.8)[:, None], torch.nan, model(x))

    x[:, 0, 0, 0] = torch.tensor([0.1, 0.9] * 4)
    bad = torch.tensor([False, True] * 4)
    y = model.predict(x)
    attack = DeepFool(candidates=5, clip=None)
    for labels in (y, None):
        with pytest.warns(UserWarning, match="NaN for 4 of 8 images"):
            result = attack.run(sometimes, x, labels)
        assert torch.equal(result.invalid, bad) and torch.equal(result.adv[bad], x[bad])
        assert not result.claimed[bad].any() and not result.stalled.any()
        alone = attack.run(model, x[~bad], y[~bad])
        torch.testing.assert_close(result.adv[~bad], alone.adv)
        # A guess shows the NaN by one forward, else the slopes do; then the verdict.
        assert (result.queries[bad] == (1 if labels is None else 5) + 1).all()


def test_nan_on_the_way_is_flagged():
    def net(x):
        z = torch.stack([x[:, 0], 1 - x[:, 0]], 1)
        return torch.where((x[:, :1] < 0.5), torch.nan, z)

    x = torch.tensor([[0.7, 0.2], [0.9, 0.1]])
    with pytest.warns(UserWarning, match="NaN for 2 of 2 images"):
        result = DeepFool(candidates=2).run(net, x, torch.zeros(2, dtype=torch.int64))
    assert result.invalid.all() and torch.equal(result.adv, x) and not result.claimed.any()


# What the paper's view does to codewords


def test_codewords_in_the_papers_view_are_claimed_without_success():
    """Another of 16 units is the largest, and the nearest codeword the same."""
    model, (x, y) = small_model().eval(), images(64)
    units = DeepFool(candidates=16, view="units").run(model, x, y)
    largest = model.units(x).argmax(1), model.units(units.adv).argmax(1)
    assert torch.equal(units.decision, model.predict(units.adv))
    assert (units.claimed & ~units.success).float().mean() > 0.2
    assert (units.claimed == (largest[0] != largest[1])).float().mean() > 0.95
    honest = DeepFool(candidates=5).run(model, x, y)
    assert (honest.claimed & ~honest.success).sum() == 0
    assert honest.success.sum() > 2 * units.success.sum()


def test_the_label_is_a_class_in_the_one_view_and_a_guessed_unit_in_the_other():
    model, (x, y) = small_model(), images(16)
    wrong = (y + 1) % 5
    assert DeepFool(candidates=5).run(model, x, wrong).claimed.all()
    units = DeepFool(candidates=16, view="units")
    torch.testing.assert_close(units(model, x, wrong), units(model, x, y))


# Fields and refusals


def test_defaults_are_the_papers():
    assert vars(DeepFool()) == {
        "max_steps": 50, "candidates": 10, "overshoot": 0.02, "view": "class", "clip": (0, 1),
    }  # fmt: skip
    assert repr(DeepFool()) == "DeepFool()" and DeepFool.per_row is None
    attack = DeepFool(10, view="units", clip=None)
    assert repr(attack) == "DeepFool(max_steps=10, view='units', clip=None)"
    assert from_repr(repr(attack)) == attack


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"candidates": 1}, ValueError, "candidates must be >= 2, got 1"),
        ({"candidates": 2.5}, TypeError, "candidates must be an integer, got 2.5"),
        ({"max_steps": 0}, ValueError, "max_steps must be >= 1, got 0"),
        ({"overshoot": -0.1}, ValueError, "overshoot must be >= 0 and finite, got -0.1"),
        ({"view": "logits"}, ValueError, "view must be one of 'class', 'units', got 'logits'"),
    ],
)
def test_fields_are_checked(values, error, words):
    with pytest.raises(error, match=words):
        DeepFool(**values)


def test_targets_and_budgets_are_refused():
    model, (x, y) = small_model(), images()
    with pytest.raises(ValueError, match="DeepFool must be untargeted, got a target in 12 of 12"):
        DeepFool().run(model, x, target=y)
    with pytest.raises(TypeError, match="DeepFool must be given nothing per row, got eps"):
        DeepFool().run(model, x, y, eps=0.1)


def test_more_candidates_than_outputs_are_all_of_them_and_warned_of():
    model, (x, y) = small_model(), images()
    for view, outputs in (("class", 5), ("units", 16)):
        every = DeepFool(candidates=outputs, view=view).run(model, x, y)
        with pytest.warns(UserWarning, match=f"outputs, of which it takes {outputs}, got 40"):
            more = DeepFool(candidates=40, view=view).run(model, x, y)
        same(more, every)


def test_empty_batches_and_a_single_class():
    model, (x, y) = small_model(), images()
    empty = DeepFool(candidates=5).run(model, x[:0], y[:0])
    assert empty.adv.shape == x[:0].shape and empty.claimed.shape == (0,)
    with pytest.warns(UserWarning, match="takes 1, got 2"):
        result = DeepFool(candidates=2).run(lambda x: x.flatten(1)[:, :1], x)
    assert result.stalled.all() and torch.equal(result.adv, x) and not result.success.any()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_cuda_follows_the_cpu(attack):
    x, y = images(32)
    here = attack.run(small_model(), x, y)
    there = attack.run(small_model().cuda(), x.cuda(), y.cuda())
    torch.testing.assert_close(there.adv.cpu(), here.adv, rtol=1e-6, atol=1e-6)
    assert torch.equal(there.success.cpu(), here.success)
