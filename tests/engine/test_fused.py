"""The fused engine against autograd of the module itself, and how it treats that module."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from nets import by_autograd, digits, gap, random_net, same_signs, trained
from test_engine import ask, assert_untouched, snapshot
from torch import nn

from fastrobust import engine
from fastrobust.attacks import PGD
from fastrobust.engine import folding
from fastrobust.engine.fused import FusedDenseNet
from fastrobust.ops.densenet_op import DenseNetKernel, densenet_ref


def ask_fused(run, x, dz):
    leaf = x.detach().requires_grad_()
    z = run(leaf)
    return z.detach(), torch.autograd.grad(z, leaf, dz)[0]


NETS = [
    ({"layers": [2, 2, 2], "growth": 12, "in_channels": 3}, (32, 32), 3),
    ({"layers": [1, 2, 1], "growth": 5, "compression": 0.7}, (13, 30), 3),
    ({"layers": [2, 2], "growth": 8, "bottleneck": False, "compression": 1.0, "in_channels": 2},
     (28, 28), 2),
    ({"layers": [1, 1], "growth": 5, "bottleneck": False, "compression": 0.7}, (9, 7), 129),
    ({"layers": [1, 1, 1], "growth": 24, "in_channels": 3}, (8, 8), 129),
    ({"layers": [3, 3], "growth": 8, "init_channels": 7, "in_channels": 3}, (9, 7), 1),
    ({"layers": [2], "growth": 5, "num_outputs": 128, "in_channels": 2}, (13, 30), 3),
    ({"depth": 10, "growth": 12, "compression": 1.0}, (28, 28), 3),
    ({"depth": 16, "growth": 24, "bottleneck": False, "compression": 0.5}, (8, 8), 3),
    ({"depth": 40, "growth": 5, "compression": 0.7}, (8, 8), 3),
    ({"depth": 100, "growth": 12, "in_channels": 3}, (8, 8), 1),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "size", "count"), NETS)
def test_values_and_gradients_are_those_of_float64(arguments, size, count):
    """A ReLU at a rounding's distance from zero may flip in any float32 computation.

    These seeds are ones where autograd in float32 agrees with float64, which the test sees first.
    """
    net = random_net(1, size, **arguments)
    x = torch.rand(count, net.arguments["in_channels"], *size)
    dz = torch.randn(count, net.arguments["num_outputs"])
    exact = by_autograd(net, x, dz)
    for z, grad in (by_autograd(net, x, dz, torch.float32), ask_fused(FusedDenseNet(net), x, dz)):
        assert gap(z, exact[0]) < 1e-3 and gap(grad, exact[1]) < 1e-3
        assert same_signs(grad, exact[1]) >= 0.9999
    ours = densenet_ref(folding.fold(net), folding.shape_of(net), x.double())
    torch.testing.assert_close(ours, exact[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["O:SOFTMAX:CE", "R:TANH:MSE"])
def test_trained_networks(name):
    model, x = trained(name), digits().x_test[:129]
    x = (x - model.mean) / model.std
    dz = torch.randn(129, model.net.linear.out_features)
    ours, exact = ask_fused(FusedDenseNet(model.net), x, dz), by_autograd(model.net, x, dz)
    assert gap(ours[0], exact[0]) < 1e-3 and gap(ours[1], exact[1]) < 1e-3
    assert same_signs(ours[1], exact[1]) >= 0.9999


def test_no_images_still_have_a_gradient():
    net = random_net(layers=[1, 1])
    z, grad = ask_fused(FusedDenseNet(net), torch.rand(0, 1, 8, 8), torch.rand(0, 10))
    assert z.shape == (0, 10) and grad.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (28, 28)])
def test_batch_order_and_threads_change_no_bit(size):
    net = random_net(layers=[2, 1], growth=5)
    run = FusedDenseNet(net)
    x, dz = torch.rand(21, 1, *size), torch.randn(21, 10)
    z, grad = ask_fused(run, x, dz)
    order, threads = torch.randperm(21), torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for rows in (slice(0, 1), slice(20, 21), slice(3, 9), slice(0, 21), order):
                other = ask_fused(run, x[rows], dz[rows])
                assert torch.equal(other[0], z[rows]) and torch.equal(other[1], grad[rows])
    finally:
        torch.set_num_threads(threads)


def test_one_forward_answers_many_cotangents_and_forwards_may_overlap():
    net = random_net(layers=[2, 1], growth=5)
    run = FusedDenseNet(net)
    x, dz = torch.rand(2, 5, 1, 8, 8), torch.randn(4, 5, 10)
    alone = [ask_fused(run, x[0], seed)[1] for seed in dz]
    first, second = x[0].clone().requires_grad_(), x[1].clone().requires_grad_()
    z = run(first)
    other = run(second)
    for seed, grad in zip(dz, alone, strict=True):
        assert torch.equal(torch.autograd.grad(z, first, seed, retain_graph=True)[0], grad)
    expected = ask_fused(run, x[1], dz[0])[1]
    assert torch.equal(torch.autograd.grad(other, second, dz[0])[0], expected)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(other, second, dz[0])


def test_no_second_derivatives_and_gaps_in_the_images():
    net = random_net(layers=[1, 1])
    run = FusedDenseNet(net)
    x, dz = torch.rand(3, 1, 9, 8), torch.randn(3, 10)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(run(leaf), leaf, dz.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
    gappy = ask_fused(run, x.mT.contiguous().mT, dz.detach())
    assert torch.equal(gappy[1], grad) and torch.equal(gappy[0], run(x))


def by_optimizer(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.rand(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def by_state(net):
    net.load_state_dict(random_net(seed=7, layers=[2, 1]).state_dict())


def by_replacing(net):
    net.linear.weight = nn.Parameter(net.linear.weight.detach() * 1.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.stem.weight.data.mul_(1.1),
        lambda net: setattr(net.stem.weight, "data", net.stem.weight.data * 1.1),
        lambda net: net.norm.running_var[:9].mul_(9),
        lambda net: setattr(net.norm, "eps", 0.1),
        lambda net: net.blocks[1][0].grow.conv.weight.detach()[0].add_(1),
        lambda net: net.train()(torch.rand(9, 1, 8, 8)) is net.eval(),
        by_optimizer, by_state, by_replacing,
    ],
)  # fmt: skip
def test_a_change_of_the_weights_is_noticed(change):
    net = random_net(layers=[2, 1])
    x, y, attack = torch.rand(4, 1, 8, 8), torch.arange(4), PGD(eps=0.3, steps=3)
    model = engine.prepare(net)
    assert model.search.name == "fused"
    before = attack(net, x, y), model(x)
    change(net)
    fresh = copy.deepcopy(net)
    after = attack(net, x, y), model(x)
    assert torch.equal(after[0], attack(fresh, x, y)) and not torch.equal(after[0], before[0])
    assert torch.equal(after[1], engine.prepare(fresh)(x)) and not torch.equal(after[1], before[1])


def test_the_network_is_left_as_it_was_and_may_go():
    net = random_net(layers=[1, 1])
    net.train()
    net.norm.eval()
    net.stem.weight.requires_grad_(False)
    net(torch.rand(2, 1, 8, 8)).sum().backward()
    before, names = snapshot(net), [set(vars(m)) for m in net.modules()]
    x, y = torch.rand(3, 1, 8, 8), torch.arange(3)
    PGD(eps=0.1, steps=2)(net, x, y)
    prepared = engine.prepare(net)
    prepared.predict(x), prepared(x)
    assert_untouched(net, before)
    assert [set(vars(m)) for m in net.modules()] == names
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(engine.prepare(copied)(x), prepared(x))
    gone = weakref.ref(net)
    del net, prepared, copied
    gc.collect()
    assert gone() is None


@pytest.fixture
def wrong(monkeypatch):
    """Spoil what the kernel reads."""
    pack = DenseNetKernel.pack
    monkeypatch.setattr(DenseNetKernel, "pack", lambda self, folded: pack(self, folded) * 1.01)


def test_the_first_use_is_compared_with_autograd(wrong):
    model = engine.prepare(random_net(layers=[1, 1]))
    for call in (model, model, model.predict, lambda x: PGD(eps=0.1, steps=1)(model, x)):
        with pytest.raises(
            RuntimeError, match=r"outputs must be autograd's within 0\.001 .* got 0"
        ):
            call(torch.rand(2, 1, 8, 8))
    assert engine.prepare(model, backend="autograd")(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_images_of_nan_give_nan_and_are_not_compared(wrong):
    model, x = engine.prepare(random_net(layers=[1, 1])), torch.rand(2, 1, 8, 8)
    assert model(torch.full_like(x, torch.nan)).isnan().all()
    with pytest.raises(RuntimeError, match="outputs must be autograd's"):
        model(x)


def test_the_comparison_looks_at_gradients_and_at_every_size(monkeypatch):
    backward, model = DenseNetKernel.backward, engine.prepare(random_net(layers=[1, 1]))
    model(torch.rand(2, 1, 8, 8))
    monkeypatch.setattr(
        DenseNetKernel, "backward", lambda *args: backward(*args).mT.contiguous().mT.flip(3)
    )
    model(torch.rand(2, 1, 8, 8))
    with pytest.raises(RuntimeError, match=r"gradients must be .* within 0\.02 .* on 8 images"):
        model(torch.rand(2, 1, 8, 9))


def test_a_network_of_nan_is_flagged_by_the_attack():
    net = random_net(layers=[1, 1])
    net.stem.weight.data[0] = torch.nan
    assert engine.prepare(net)(torch.rand(2, 1, 8, 8)).isnan().all()
    with pytest.warns(UserWarning, match="NaN for 3 of 3"):
        result = PGD(eps=0.1, steps=2).run(net, torch.rand(3, 1, 8, 8), torch.arange(3))
    assert result.invalid.all() and not result.success.any()


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_contexts_of_the_caller_change_nothing(context):
    net, attack = random_net(layers=[1, 1]), PGD(eps=0.1, steps=3)
    x, y = torch.rand(3, 1, 8, 8), torch.arange(3)
    plain = engine.prepare(copy.deepcopy(net))(x), attack(copy.deepcopy(net), x, y)
    model = engine.prepare(net)
    with context():
        inside = model(x.clone()), attack(model, x.clone(), y)
        assert torch.equal(model.predict(x), plain[0].argmax(1))
    for ours, expected in zip(inside, plain, strict=True):
        assert torch.equal(ours, expected) and ours.dtype is torch.float32
    assert torch.equal(attack(model, x, y), plain[1])  # nothing of inference mode was kept
    assert torch.equal(ask(model, x, y).z, plain[0])
