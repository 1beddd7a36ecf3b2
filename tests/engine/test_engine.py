"""The oracle: gradients that are right, and a model and a caller that notice nothing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.engine import backends, objectives


def network(width=10, dtype=torch.float64):
    """Convolution, batch norm with statistics of its own, dropout: all that eval mode changes."""
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(20, width),
    )  # fmt: skip
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    return net.to(dtype)


def codeword_model(dtype=torch.float64):
    book = fr.Codebook.random(4, 16, key="engine")
    return fr.Classifier(network(16), fr.heads.Codeword(book), normalize=(0.5, 0.25)).to(dtype)


def images(count=6, dtype=torch.float64):
    return torch.rand(count, 2, 4, 4, dtype=dtype), torch.arange(count) % 4


def ask(model, x, y, loss="ce", sign=None):
    with engine.oracle(model, x.device) as network:
        return network.gradient(x, y, loss, torch.ones(len(x)) if sign is None else sign)


@pytest.mark.parametrize("loss", ["ce", "train", "margin", "dlr", objectives.TRAIN_BY_SUM])
def test_gradient_is_that_of_finite_differences(loss, device):
    model = codeword_model().to(device)
    x, y = (t.to(device) for t in images())
    answer = ask(model, x, y, loss)
    direction = torch.randn_like(x)
    width = 1e-6
    with engine.oracle(model, x.device) as network:
        ones = torch.ones(len(x), device=device)
        up = network.score(x + width * direction, y, loss, ones).loss
        down = network.score(x - width * direction, y, loss, ones).loss
    slope = (answer.grad * direction).flatten(1).sum(1)
    torch.testing.assert_close((up - down) / (2 * width), slope, rtol=1e-5, atol=1e-7)
    assert torch.equal(answer.decision, model.predict(x)) and answer.valid.all()


def test_a_callable_loss_on_scores_equals_the_named_one():
    model, (x, y) = codeword_model(), images()
    named = ask(model, x, y, "ce")
    called = ask(model, x, y, lambda s, y: nn.functional.cross_entropy(s, y, reduction="none"))
    for ours, theirs in zip(called, named, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_outputs_that_are_views_and_gradients_that_are_expanded():
    (x, y), weight = images(), torch.randn(32, 4).double()

    def wide(x):
        return torch.cat([x.flatten(1) @ weight] * 2, 1)[:, ::2]

    def sum_of_scores(scores, y):
        return scores.sum(1)

    answer = ask(wide, x, y, sum_of_scores)
    expected = 2 * (weight[:, 0] + weight[:, 2]).expand(6, -1)
    torch.testing.assert_close(answer.grad.flatten(1), expected)
    assert ask(wide, x, y).grad.shape == x.shape


def test_the_sign_turns_loss_and_gradient_row_by_row():
    model, (x, y) = codeword_model(), images()
    plain, turned = ask(model, x, y), ask(model, x, y, sign=torch.tensor([1.0, -1] * 3))
    factor = torch.tensor([1.0, -1] * 3).double()
    torch.testing.assert_close(turned.loss, plain.loss * factor)
    torch.testing.assert_close(turned.grad, plain.grad * factor.view(-1, 1, 1, 1))


def test_chunks_change_nothing(monkeypatch):
    model, (x, y) = codeword_model(), images(7)
    whole = ask(model, x, y)
    monkeypatch.setattr(backends, "CHUNK_PIXELS", 3 * 32)
    for part, all_at_once in zip(ask(model, x, y), whole, strict=True):
        torch.testing.assert_close(part, all_at_once)
    with engine.oracle(model, x.device) as network:
        assert torch.equal(network.decide(x)[1], whole.decision)


def snapshot(model):
    return (
        [(p.requires_grad, copy.deepcopy(p.grad)) for p in model.parameters()],
        [m.training for m in model.modules()],
        copy.deepcopy(model.state_dict()),
    )


def assert_untouched(model, before):
    flags, training, weights = snapshot(model)
    for (required, grad), (required0, grad0) in zip(flags, before[0], strict=True):
        assert required == required0
        assert (grad is None) == (grad0 is None) and (grad is None or torch.equal(grad, grad0))
    assert training == before[1]
    assert all(torch.equal(weights[name], value) for name, value in before[2].items())


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    model, (x, y) = network(4), images()
    model.train()
    model[1].eval()  # a frozen batch norm inside a model in train mode
    model[0].weight.requires_grad_(False)
    model[5](torch.rand(2, 20).double()).sum().backward()
    before = snapshot(model)
    seen = []

    def look(*_):
        seen.append(any(m.training for m in model.modules()))
        seen.append(any(p.requires_grad for p in model.parameters()))

    hook = model[5].register_forward_hook(look)
    if fails:
        with pytest.raises(RuntimeError, match="mid-attack"), engine.oracle(model, x.device):
            raise RuntimeError("mid-attack")
    else:
        answer = ask(model, x, y)
        assert not answer.grad.requires_grad and not answer.loss.requires_grad
        assert seen == [False, False]
    hook.remove()
    assert_untouched(model, before)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "context",
    [torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_contexts_of_the_caller_change_nothing(context):
    model, (x, y) = network(4, torch.float32), images(dtype=torch.float32)
    attack = fr.attacks.PGD(eps=0.1, steps=4)
    plain, answer = attack.run(model, x, y), ask(model, x, y)
    with context:
        inside = attack.run(model, x.clone(), y.clone())
        assert torch.equal(ask(model, x, y).grad, answer.grad)
    assert torch.equal(inside.adv, plain.adv) and not inside.adv.is_inference()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_bodies_keep_heads_and_small_gradients(dtype):
    model, (x, y) = codeword_model(torch.float32), images(dtype=torch.float32)
    model.net[5].bias.data.fill_(9.0)  # saturated units: gradients below float16's smallest, 6e-8
    model.net[5].weight.data *= 0.1
    half = copy.deepcopy(model).to(dtype)
    exact = ask(copy.deepcopy(half).float(), x, y, "train")
    answer = ask(half, x, y, "train")
    assert answer.z.dtype is answer.loss.dtype is answer.grad.dtype is torch.float32
    assert 0 < exact.grad.abs().max() < 3e-8
    agree = torch.cosine_similarity(1e9 * answer.grad.flatten(1), 1e9 * exact.grad.flatten(1))
    assert agree.min() > 0.97
    assert fr.attacks.PGD(eps=0.1, steps=3)(half, x, y).dtype is torch.float32
    rounded = fr.attacks.PGD(eps=0.1, steps=3).run(half, x.to(dtype), y)
    assert rounded.adv.dtype is rounded.l2.dtype is dtype
    assert torch.equal(rounded.decision, half.predict(rounded.adv))


def test_gradients_near_underflow_keep_their_digits():
    """On their way through a network of 1e-3 weights such numbers would leave float32's range."""
    model, (x, y) = codeword_model(torch.float32), images(40, torch.float32)
    for layer in (0, 5):
        model.net[layer].weight.data *= 1e-3
    model.net[5].weight.data *= 1e3

    def faint(scores, y):
        return torch.nn.functional.cross_entropy(scores, y, reduction="none") * 1e-37

    plain, small = ask(model, x, y), ask(model, x, y, faint)
    assert (small.grad.abs() > 1e-42).float().mean() > 0.9
    kept = plain.grad.abs() > 1e-3 * plain.grad.abs().max()
    ratio = small.grad[kept].double() / plain.grad[kept].double()
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1e-37), rtol=1e-2, atol=0)


def test_float32_images_on_a_float64_model_and_the_reverse():
    x, y = images()
    for model_type, image_type in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        answer = ask(network(4, model_type), x.to(image_type), y)
        assert answer.grad.dtype is image_type and answer.z.dtype is model_type


def test_models_without_parameters_and_plain_callables():
    x, y = images()
    weight = torch.randn(32, 4).double()
    answer = ask(lambda x: x.flatten(1) @ weight, x, y)
    p = (x.flatten(1) @ weight).softmax(1)
    torch.testing.assert_close(answer.grad.flatten(1), (p - nn.functional.one_hot(y, 4)) @ weight.T)


def test_what_is_no_model_is_refused():
    x, y = images()
    for model, error, words in (
        ("net", TypeError, "model must be a torch.nn.Module or a callable"),
        (lambda x: x, ValueError, r"shape \(6, d\), got \(6, 2, 4, 4\)"),
        (lambda x: x.flatten(1).tolist(), ValueError, "got list"),
        (lambda x: x.detach().flatten(1), ValueError, "differentiable by its input"),
    ):
        with pytest.raises(error, match=words):
            ask(model, x, y)


def test_losses_of_a_wrong_shape_are_refused():
    model, (x, y) = network(4), images()
    for loss, words in (
        (nn.functional.cross_entropy, r"shape \(6,\), one per row, got \(\)"),
        (lambda s, y: 1.0, "got float"),
        (lambda s, y: torch.zeros(6), "differentiable by the scores"),
    ):
        with pytest.raises(ValueError, match=words):
            ask(model, x, y, loss)


def scores_of(view, head, z):
    """What an attack takes for scores in a view, by its definition."""
    if view == "class" or (head.activation, head.training_loss) == ("softmax", "ce"):
        return head.scores(z)
    return head.units(z)


@pytest.mark.parametrize("view", ["class", "units"])
@pytest.mark.parametrize(
    "head", [fr.heads.Softmax("ce"), fr.heads.Softmax("mse"), fr.heads.Linear(), None]
)
def test_leaders_are_the_highest_outputs_and_their_slopes(head, view):
    model = codeword_model() if head is None else fr.Classifier(network(), head).double()
    x, _ = images()
    with engine.oracle(model, x.device) as oracle:
        answer = oracle.leaders(x, 3, view)
        every = oracle.leaders(x, 99, view)

        def outputs(x):
            return scores_of(view, model.head, model.pre_activation(x[None]))[0]

        for row in range(len(x)):
            values = outputs(x[row]).detach()
            top = sorted(range(len(values)), key=lambda k: -values[k])[:3]
            jacobian = torch.func.jacrev(outputs)(x[row])[top]
            torch.testing.assert_close(answer.gaps[row], values[top[1:]] - values[top[0]])
            torch.testing.assert_close(answer.slopes[row], jacobian[1:] - jacobian[0])
    assert answer.valid.all() and every.gaps.shape[1] == len(values) - 1
    torch.testing.assert_close(every.slopes[:, :2], answer.slopes)
    assert not any(part.requires_grad for part in answer)


def test_equal_leaders_come_in_the_order_of_their_index():
    z = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0]])
    gaps, by_z = objectives.leading(fr.heads.Linear(), z, 4, "class")
    assert gaps.tolist() == [[0, 0, -1]]
    assert by_z[0].tolist() == [[0, -1, 1, 0, 0], [0, -1, 0, 0, 1], [1, -1, 0, 0, 0]]


def test_slopes_of_saturated_units_are_right_in_float32():
    """From |z| = 9 on 1 - tanh(z)^2 is zero in float32, and its true value is not."""
    head = codeword_model(torch.float32).head
    z = torch.linspace(9, 30, 16).repeat(3, 1) * torch.randn(3, 16).sign()
    _, by_z = objectives.leading(head, z, 3, "class")
    top = head.scores(z).argsort(1, descending=True)[:, :3]
    vectors = head.vectors.double()[top]
    exact = (vectors[:, 1:] - vectors[:, :1]) * 12 / 16 / z.double().cosh().square()[:, None]
    torch.testing.assert_close(by_z.double(), exact, rtol=1e-4, atol=0)


def test_nan_rows_are_marked():
    weight = torch.randn(32, 4).double()

    def model(x):
        z = x.flatten(1) @ weight
        return torch.where((x[:, 0, 0, 0] > 0.5)[:, None], torch.nan, z)

    x, y = images(8)
    bad = x[:, 0, 0, 0] > 0.5
    assert 0 < bad.sum() < 8
    assert torch.equal(ask(model, x, y).valid, ~bad)

    def infinite_slope(x):  # finite scores, NaN gradient: inf * 0
        return x.flatten(1) @ weight + (x - x.detach()).sqrt().sum((1, 2, 3))[:, None] * 0

    answer = ask(infinite_slope, x, y)
    assert not answer.z.isnan().any() and not answer.valid.any()


def test_one_decision_everywhere():
    model, (x, _) = codeword_model(), images(64)
    with engine.oracle(model, x.device) as network:
        _, decision, valid = network.decide(x)
    u = model.eval().units(x).detach().numpy()
    distance = ((u[:, None] - model.head.vectors.numpy()) ** 2).sum(2)
    assert np.array_equal(decision.numpy(), distance.argmin(1)) and valid.all()
