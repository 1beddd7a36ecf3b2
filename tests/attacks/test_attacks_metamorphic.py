"""What must not change an attack's result, and what must."""

from dataclasses import replace

import attack_table
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.attacks import BIM, FGSM, MIM, PGD, base
from fastrobust.engine import gradients, scheduler

ATTACKS = attack_table.IN_BALL
# Rows are added up in another order when the batch is another.
CLOSE = {"rtol": 0, "atol": 1e-9}


def small_model(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(24, 16)
    )
    net[4].weight.data *= 4
    head = fr.heads.Codeword(fr.Codebook.random(5, 16))
    return fr.Classifier(net, head, normalize=(0.5, 0.2)).to(dtype)


def images(count=12, dtype=torch.float64):
    x = torch.rand(count, 1, 4, 4, dtype=dtype)
    return x, small_model(dtype).predict(x)


def same(result, other, rows=slice(None), **tolerance):
    torch.testing.assert_close(result.adv, other.adv[rows], **(tolerance or CLOSE))
    for field in ("success", "claimed", "queries", "decision", "invalid"):
        assert torch.equal(getattr(result, field), getattr(other, field)[rows]), field


def test_fgsm_is_one_step_of_pgd_and_of_the_others():
    model, (x, y) = small_model(), images()
    for loss in ("ce", "train", "margin", "dlr"):
        expected = FGSM(eps=0.1, loss=loss)(model, x, y)
        for attack in (
            PGD(eps=0.1, step_size=0.1, steps=1, random_start=False, loss=loss),
            BIM(eps=0.1, step_size=0.1, steps=1, loss=loss),
            MIM(eps=0.1, step_size=0.1, steps=1, loss=loss),
        ):
            assert torch.equal(attack(model, x, y), expected)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eps_zero_returns_x(attack, dtype):
    x, y = images(dtype=dtype)
    result = replace(attack, eps=0).run(small_model(dtype), x, y)
    assert torch.equal(result.adv, x) and not result.success.any()
    assert torch.equal(result.l2, torch.zeros_like(result.l2))


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_a_permuted_batch_gives_the_permuted_result(attack):
    model, (x, y) = small_model(), images()
    order, index = torch.randperm(len(x)), torch.arange(len(x)) + 2**40
    result = attack.run(model, x, y, index=index)
    same(attack.run(model, x[order], y[order], index=index[order]), result, order)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_a_batch_equals_its_images_one_by_one(attack):
    model, (x, y) = small_model(), images()
    eps = attack.eps * torch.linspace(0.4, 1.6, len(x)).double()
    result = attack.run(model, x, y, eps=eps)
    assert 0 < result.success.sum() < len(x)
    for row in range(len(x)):
        one = slice(row, row + 1)
        single = replace(attack, eps=eps[row].item())
        same(single.run(model, x[one], y[one], index=torch.tensor([row])), result, one)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_rows_that_leave_the_batch_change_nothing(attack, monkeypatch):
    model, (x, y) = small_model(), images(40)
    result = attack.run(model, x, y)
    sizes = []
    real = gradients.Oracle.gradient

    def spy(oracle, x, *rest, **named):
        sizes.append(len(x))
        return real(oracle, x, *rest, **named)

    monkeypatch.setattr(gradients.Oracle, "gradient", spy)
    attack.run(model, x, y)
    assert set(sizes) <= {40, 20, 10, 5, 2, 1}
    if getattr(attack, "keep", "last") == "best":
        assert len(set(sizes)) > 1
    monkeypatch.setattr(scheduler, "_shrunk", lambda size, *_: size)
    same(attack.run(model, x, y), result)


def test_the_seed_and_the_index_are_the_only_chance():
    model, (x, y) = small_model(), images()
    attack = PGD(eps=0.1, keep="last", steps=2)
    state = torch.get_rng_state()
    first = attack(model, x, y, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(attack(model, x, y, seed=3), first)
    assert not torch.equal(attack(model, x, y, seed=4), first)
    assert not torch.equal(attack(model, x, y, seed=3, index=torch.arange(12) + 1), first)
    assert torch.equal(attack(model, x, y, seed=3, index=torch.arange(12)), first)
    twins = attack(model, x[:1].expand(2, -1, -1, -1), y[:1].expand(2))
    assert not torch.equal(twins[0], twins[1])


def test_restarts_and_the_best_iterate_never_make_it_worse():
    model, (x, y) = small_model(), images(60)
    attack = PGD(eps=0.05, step_size=0.02, steps=5)

    def outcome(attack, target=None):
        result = attack.run(model, x, None if target is not None else y, target=target)
        with engine.oracle(model, x.device) as network:
            goal, sign = (y, 1.0) if target is None else (target, -1.0)
            loss = network.score(result.adv, goal, attack.loss, x.new_full((60,), sign)).loss
        return result, loss

    for target in (None, (y + 1) % 5):
        one, loss = outcome(attack, target)
        many, loss_many = outcome(replace(attack, restarts=4), target)
        last, loss_last = outcome(replace(attack, keep="last"), target)
        for better, its_loss, worse, other_loss in (
            (many, loss_many, one, loss),
            (one, loss, last, loss_last),
        ):
            assert not (worse.success & ~better.success).any()
            held = ~better.success
            assert (its_loss[held] >= other_loss[held] - 1e-12).all()
        assert many.success.sum() > one.success.sum() or target is not None
        assert torch.equal(many.adv[one.success], one.adv[one.success])
        assert (many.queries[~one.success] > one.queries[~one.success]).all()


def test_a_scheduler_with_fixed_slots_gets_the_same_rows():
    """Drive the rule by hand: three slots, refilled row by row as rows are done."""
    model, (x, y) = small_model(), images()
    attack = PGD(eps=0.05, step_size=0.02, steps=6, restarts=2)
    eps = torch.linspace(0.01, 0.1, len(x)).double()
    expected = attack.run(model, x, y, eps=eps, seed=7)
    rows = base.Rows(
        x0=x, y=y, sign=torch.ones(len(x)).double(), eps=eps, index=torch.arange(len(x)), seed=7
    )
    with engine.oracle(model, x.device) as network:
        waiting = list(range(3, len(x)))
        held = torch.arange(3)
        slots = attack.init(rows.take(held))
        adv, queries, claimed = torch.empty_like(x), {}, {}
        while len(held):
            attack.update(network, slots)
            for slot in attack.done(slots).nonzero().flatten().tolist():
                row = held[slot].item()
                if row in queries:
                    continue
                single = slots.take(torch.tensor([slot]))
                adv[row] = attack.adversarial(network, single)[0]
                claimed[row] = single.won.item()
                queries[row] = single.queries.item() + 1
                if waiting:
                    held[slot] = waiting.pop(0)
                    slots.put(torch.tensor([slot]), attack.init(rows.take(held[[slot]])))
            if len(queries) == len(x):
                break
    torch.testing.assert_close(adv, expected.adv, **CLOSE)
    assert [queries[row] for row in range(len(x))] == expected.queries.tolist()
    assert [claimed[row] for row in range(len(x))] == expected.claimed.tolist()


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_float32_follows_float64(attack):
    x, y = images(64)
    exact = attack.run(small_model(), x, y)
    single = attack.run(small_model(torch.float32), x.float(), y)
    assert single.adv.dtype is single.l2.dtype is single.linf.dtype is torch.float32
    # A sign may turn where a gradient is all but zero; an image in a hundred may be decided by it.
    assert (single.success != exact.success).sum() <= 2
    together = (single.adv - exact.adv).abs().flatten(1).amax(1) < 1e-4
    assert together.float().mean() > 0.8


@settings(max_examples=40, deadline=None)
@given(
    eps=st.floats(0, 2),
    step_size=st.floats(0, 1),
    steps=st.integers(1, 4),
    norm=st.sampled_from(["linf", "l2"]),
    keep=st.sampled_from(["best", "last"]),
    restarts=st.integers(1, 2),
    clip=st.sampled_from([None, (0, 1), (-1, 1.5)]),
    double=st.booleans(),
)
def test_adv_stays_in_box_and_ball(eps, step_size, steps, norm, keep, restarts, clip, double):
    dtype = torch.float64 if double else torch.float32
    x, _ = images(5, dtype)
    attack = PGD(
        eps, step_size=step_size, steps=steps, norm=norm, keep=keep, restarts=restarts, clip=clip
    )
    result = attack.run(small_model(dtype), x)
    slack = 4 * torch.finfo(dtype).eps * (1 + eps)
    size = result.linf if norm == "linf" else result.l2
    assert (size <= eps + slack).all()
    if clip is not None:
        assert result.adv.min() >= clip[0] and result.adv.max() <= clip[1]
    change = (result.adv - x).flatten(1)
    torch.testing.assert_close(result.l2, change.square().sum(1).sqrt())
    torch.testing.assert_close(result.linf, change.abs().max(1).values)
    assert not result.adv.requires_grad and result.adv.data_ptr() != x.data_ptr()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_cuda_follows_the_cpu(attack):
    x, y = images(32)
    here = attack.run(small_model(), x, y)
    there = attack.run(small_model().cuda(), x.cuda(), y.cuda())
    torch.testing.assert_close(there.adv.cpu(), here.adv, rtol=0, atol=1e-6)
    assert torch.equal(there.success.cpu(), here.success)
