"""Ways to run a network: the words of prepare, memory, bf16, and attacks that give the same."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from nets import digits, random_net, trained
from test_engine import ask
from torch import nn
from torch.nn import functional as F  # noqa: N812

import fastrobust as fr
from fastrobust import engine
from fastrobust.attacks import CWL2, PGD, DeepFool
from fastrobust.engine import backends, fused, prepared
from fastrobust.engine.prepared import Prepared
from fastrobust.models.classifier import as_classifier

bf16 = pytest.mark.skipif(not fr.build_info()["bf16"], reason="needs AVX512-BF16")


def plain_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 10))


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"backend": "fast"}, "backend must be auto | fused | autograd | compile, got 'fast'"),
        ({"precision": "fp16"}, "precision must be fp32 | tf32 | bf16, got 'fp16'"),
        ({"memory": 0}, "memory must be a positive number of bytes, got 0"),
        ({"memory": -1}, "memory must be a positive number of bytes, got -1"),
        ({"precision": "tf32"}, "tf32 must have a network on a GPU, got one on the CPU"),
        ({"precision": "bf16"}, "bf16 must have the fused engine, .*got a Sequential, not a"),
        ({"backend": "fused"}, "fused engine must have .*got a Sequential, not a DenseNet"),
        ({"backend": "fused", "precision": "bf16"}, "fused engine must have .*got a Sequential"),
    ],
)
def test_wishes_that_cannot_be_met(wish, words):
    with pytest.raises(ValueError, match=words.replace("|", r"\|")):
        engine.prepare(plain_net(), **wish)


def test_wishes_that_a_densenet_cannot_meet_and_what_is_no_model():
    net = random_net(layers=[1, 1])
    with pytest.raises(ValueError, match="tf32 must have a network on a GPU"):
        engine.prepare(net, "tf32")
    if fr.build_info()["bf16"]:
        with pytest.raises(ValueError, match="bf16 must have .* got backend 'autograd'"):
            engine.prepare(net, "bf16", backend="autograd")
    with pytest.raises(TypeError, match="model must be a torch.nn.Module or a callable"):
        engine.prepare("net")


def test_one_network_has_one_backend_for_one_wish():
    net = random_net(layers=[1, 1])
    model = engine.prepare(net)
    assert engine.prepare(net).search is model.search is model.exact
    again = engine.prepare(model, memory=10**6)
    assert again.net is net and again.search is not model.search and again.search.memory == 10**6
    assert model.search.why == "a DenseNet of fastrobust.models"
    assert "not a DenseNet" in engine.prepare(plain_net()).search.why
    assert engine.prepare(net, backend="autograd").search.why == "asked for"


@pytest.mark.parametrize("backend", ["fused", "autograd"])
def test_a_copy_of_a_prepared_model_asks_its_own_network(backend):
    x = torch.rand(3, 1, 8, 8)
    classifier = fr.Classifier(random_net(layers=[1, 1]), fr.heads.Softmax("mse"), (0.5, 0.25))
    model = engine.prepare(classifier, memory=12345, backend=backend)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), model(x)) and copied.net is not model.net
        assert (copied.search.name, copied.search.memory) == (backend, 12345)
        copied.net.linear.bias.data[0] += 100
        assert not copied.predict(x).any() and not torch.equal(copied(x), model(x))


class Counting:
    """Notes how many rows each call of a network had."""

    def __init__(self, monkeypatch, kind):
        self.rows, call = [], kind.__call__

        def counted(backend, x):
            self.rows.append(len(x))
            return call(backend, x)

        monkeypatch.setattr(kind, "__call__", counted)


def test_memory_cuts_the_calls_of_the_fused_engine_and_changes_no_bit(monkeypatch):
    net, x, y = random_net(layers=[2, 1], growth=5), torch.rand(37, 1, 8, 8), torch.arange(37) % 10
    whole, counted = ask(net, x, y), Counting(monkeypatch, fused.Fused)
    size = 4 * engine.prepare(net).search._engine.kernel(x[:1]).state(1)
    for memory, most in ((1, 1), (size, 1), (3 * size, 3), (20 * size, 20), (99 * size, 37)):
        model = engine.prepare(net, memory=memory)
        counted.rows.clear()
        for ours, expected in zip(ask(model, x, y), whole, strict=True):
            assert torch.equal(ours, expected)
        assert sum(counted.rows) == 37 and max(counted.rows) <= most
        for rows in counted.rows:  # what is really kept
            kernel = model.search._engine.kernel(x[:rows])
            assert 4 * kernel.state(rows) <= max(memory, size)
    assert counted.rows == [37]
    with engine.oracle(engine.prepare(net, memory=1), x.device) as network:
        assert torch.equal(network.leaders(x, 3, "class").slopes[:5],
                           network.leaders(x[:5], 3, "class").slopes)  # fmt: skip
        assert torch.equal(network.decide(x)[1], whole.decision)


def test_memory_cuts_the_calls_of_autograd(monkeypatch):
    net, x, y = plain_net(), torch.rand(37, 1, 8, 8), torch.arange(37) % 10
    whole, counted = ask(net, x, y), Counting(monkeypatch, backends.Backend)
    # With its weights frozen the net keeps what its tanh gave, 400 bytes an image, and outputs.
    for memory, least, most in ((1, 1, 1), (5000, 5, 12), (10**6, 37, 37)):
        model = engine.prepare(net, memory=memory)
        ask(model, x[:1], y[:1])
        counted.rows.clear()
        answer = ask(model, x, y)
        assert sum(counted.rows) == 37 and least <= max(counted.rows) <= most
        torch.testing.assert_close(answer.grad, whole.grad)


@pytest.mark.filterwarnings("default")
def test_compile_equals_autograd():
    """The cheapest of its compilers: what is tested is the way there, not PyTorch."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    compiler, torch.compile = torch.compile, lambda net: compiler(net, backend="aot_eager")
    try:
        model = engine.prepare(net, backend="compile")
    finally:
        torch.compile = compiler
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    for ours, expected in zip(ask(model, x, y), ask(net, x, y), strict=True):
        torch.testing.assert_close(ours, expected)
    assert model.search.name == "compile" and model.search is not engine.prepare(net).search
    net[0].weight.data.mul_(2)
    torch.testing.assert_close(model(x), net(x))
    gone = weakref.ref(net)
    del net, model
    gc.collect()
    assert gone() is None


ATTACKS = [
    (PGD(eps=0.1, steps=20), 60),
    (DeepFool(max_steps=20), 60),
    (CWL2(binary_search_steps=3, max_steps=40, learning_rate=0.05, initial_const=0.1), 30),
]


@pytest.mark.parametrize("name", ["O:SOFTMAX:CE", "R:TANH:MSE"])
@pytest.mark.parametrize(("attack", "count"), ATTACKS)
def test_attacks_succeed_on_the_same_images_as_with_autograd(attack, count, name):
    model, x, y = trained(name), digits().x_test[:count], digits().y_test[:count]
    fused = attack.run(engine.prepare(model, backend="fused"), x, y)
    plain = attack.run(engine.prepare(model, backend="autograd"), x, y)
    # A step by a sign that rounding decides can part two runs: one image may differ.
    assert (fused.success != plain.success).sum() <= 1
    assert fused.success.any()
    assert abs(float(fused.l2.mean() / plain.l2.mean()) - 1) < 0.01


@pytest.mark.parametrize(("attack", "count"), ATTACKS)
def test_images_do_not_see_their_batch(attack, count):
    model, x, y = trained(), digits().x_test[:7], digits().y_test[:7]
    whole = attack.run(model, x, y)
    small = attack.run(engine.prepare(model, memory=50_000), x, y)
    assert torch.equal(small.adv, whole.adv)
    for row in range(7):
        index = torch.tensor([row])
        alone = attack.run(model, x[index], y[index], index=index)
        assert torch.equal(alone.adv[0], whole.adv[row])
        assert alone.queries == whole.queries[row]


def on_the_edge(model, count):
    """Images between two of different classes, where the decision of the model turns."""
    x = digits().x_test
    low, high = x[:count], x[count : 2 * count]
    first = model.predict(low)
    differ = first != model.predict(high)
    low, high, first = low[differ], high[differ], first[differ]
    for _ in range(12):
        middle = (low + high) / 2
        same = (model.predict(middle) == first)[:, None, None, None]
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return low


@bf16
def test_bf16_searches_and_float32_decides():
    exact = engine.prepare(trained())
    model = engine.prepare(exact, "bf16")
    assert (model.search.precision, model.exact.precision) == ("bf16", "fp32")
    x = on_the_edge(exact, 100)
    right = exact.predict(x)
    with engine.oracle(model, x.device) as network:
        answer = network.gradient(x, right, "ce", torch.ones(len(x)))
        assert torch.equal(network.decide(x)[0], exact.pre_activation(x))
        assert torch.equal(network.decide(x)[1], right)
        towards = network.gradient(x, right, "ce", -torch.ones(len(x)))
    believed = model.head.decide(answer.z) != right
    assert 5 < believed.sum() < len(x)
    # What would end a row is decided in float32, elsewhere the search may be wrong.
    assert torch.equal(answer.decision, right)
    assert torch.equal(towards.decision != right, believed)
    assert torch.equal(model.predict(x), right)
    # No step is taken, so that the images that are judged are these.
    result = PGD(eps=0.0, steps=1).run(model, x, right)
    assert torch.equal(result.decision, right) and not result.success.any()
    assert torch.equal(model(x), answer.z)
    # Outputs and loss are float32: no rounding to eight bits in front of the head or behind it.
    assert (answer.z != answer.z.bfloat16()).float().mean() > 0.9
    loss = F.cross_entropy(answer.z.double(), right, reduction="none")
    torch.testing.assert_close(answer.loss.double(), loss, rtol=1e-5, atol=1e-6)


def left(model, eps=0.1, seeds=3, **options):
    """Accuracies under PGD-40, one for each seed, as float32 decides."""
    x, y = digits().x_test, digits().y_test
    attack = PGD(eps=eps, steps=40, **options)
    runs = [attack.run(model, x, y, seed=seed) for seed in range(seeds)]
    return [float((run.decision == y).float().mean()) for run in runs]


def rounded_cross_entropy(scores, y):
    return F.cross_entropy(scores.bfloat16(), y, reduction="none").float()


def mean(accuracies):
    return sum(accuracies) / len(accuracies)


@bf16
@pytest.mark.parametrize("name", ["O:SOFTMAX:CE", "R:TANH:MSE"])
def test_a_search_in_bf16_finds_what_one_in_float32_finds(name):
    """Within the spread of float32's random starts, give or take three images of 500.

    Where bfloat16 decided, too, it left 0.02 more.
    """
    model = trained(name)
    exact, half = left(model, seeds=5), left(engine.prepare(model, "bf16"), seeds=5)
    assert min(exact) - 0.006 <= mean(half) <= max(exact) + 0.006, (exact, half)


@bf16
def test_a_head_in_bf16_would_make_a_model_look_more_robust():
    """The confident images keep no gradient: 1 - p is zero in eight bits."""
    exact = left(trained(), loss="ce")
    half = left(engine.prepare(trained(), "bf16"), loss="ce")
    rounded = left(engine.prepare(trained(), "bf16"), loss=rounded_cross_entropy)
    assert min(rounded) > max(exact), (exact, rounded)
    assert mean(rounded) - mean(exact) > 0.05 > 2 * abs(mean(half) - mean(exact))


@pytest.mark.parametrize("backend", ["fused", "autograd"])
def test_no_product_is_rounded_more_than_was_wished(monkeypatch, backend):
    """On a GPU cuDNN takes TF32 by default, also where the engine is compared with autograd."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    places = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [place.allow_tf32 for place in places]
    assert before[0]
    net = random_net(layers=[1], growth=4)
    with prepared.choose(net, backend).opened():
        assert not any(place.allow_tf32 for place in places)
    assert [place.allow_tf32 for place in places] == before


def test_a_search_in_tf32_is_one_both_ways_and_float32_decides(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    seen = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(("forward", torch.backends.cuda.matmul.allow_tf32))
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(("backward", torch.backends.cuda.matmul.allow_tf32))
            return grad

    class Watched(nn.Module):
        def forward(self, x):
            return Watch.apply(x.flatten(1)) * 2

    net = Watched()
    classifier = as_classifier(net)
    model = Prepared(classifier, backends.Backend(net, "tf32"), backends.Backend(net, "fp32"))
    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    with engine.oracle(model, x.device) as network:
        network.gradient(x, y, "ce", torch.full((3,), -1.0), confirm=True)
        network.decide(x)
    kinds = {("forward", True), ("backward", True), ("forward", False)}
    assert set(seen) == kinds and seen[0] == ("forward", True) and seen[-1] == ("forward", False)
    assert not torch.backends.cuda.matmul.allow_tf32
