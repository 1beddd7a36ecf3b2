"""L-BFGS against SciPy's fmin_l_bfgs_b, image by image, and against optima in closed form."""

from dataclasses import replace

import numpy as np
import numpy_attacks
import pytest
import torch
from scipy.optimize import fmin_l_bfgs_b
from torch import nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.attacks import LBFGS, from_repr
from fastrobust.attacks.const_search import bisect
from fastrobust.attacks.targets import goal
from fastrobust.engine import scheduler

HEADS = ("ce", "mse", "codeword")
PIXELS = int(np.prod(numpy_attacks.SHAPE))
EASY = {"initial_const": 1.0, "binary_search_steps": 4, "max_steps": 100}


def batch(head, count=12, dtype=torch.float64, scale=0.5):
    """Return the numpy net, the classifier and images with targets that differ from decisions.

    At half its scale the net is smooth, as a trained one: most objectives have one minimum.
    """
    net = numpy_attacks.Net.make(head)
    net.w1, net.w2 = net.w1 * scale, net.w2 * scale
    x = torch.rand(count, *numpy_attacks.SHAPE, dtype=torch.float64)
    x[:, 0, 0] = (x[:, 0, 0] * 3 - 1).clamp(0, 1)  # some pixels at the bounds
    decided = net.judge(x.flatten(1).numpy(), np.zeros(count, int), "train")[2]
    target = torch.from_numpy((decided + 1 + np.arange(count) % 3) % numpy_attacks.CLASSES)
    return net, net.torch().to(dtype), x.to(dtype), target


def objective(net, image, target, c, loss="train"):
    """c L(y_t, F(v)) + |v - image|^2 and its gradient by v, a flat vector."""

    def both(v):
        value, grad, _ = net.judge(v[None], np.array([target]), loss)
        return c * value[0] + ((v - image) ** 2).sum(), c * grad[0] + 2 * (v - image)

    return both


def minimum(net, image, target, c, loss="train"):
    """SciPy's minimum and its value."""
    found, value, _ = fmin_l_bfgs_b(
        objective(net, image, target, c, loss), image, bounds=[(0, 1)] * len(image), maxiter=1000
    )
    return found, value


def run_state(attack, model, x, target):
    """Drive the attack and return its state."""
    with engine.oracle(model, x.device) as network:
        state = attack.start(network, x, goal(network, x, None, target))
        scheduler.run_batch(attack, network, state)
    return state


# The minimisation


@pytest.mark.parametrize("loss", ["train", "ce"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_minimum_is_as_low_as_scipys(dtype, head, loss):
    net, model, x, target = batch(head, 20, dtype)
    flat = x.flatten(1).double().numpy()
    for c in (0.01, 0.3, 3.0):
        scipys = [minimum(net, flat[i], int(target[i]), c, loss)[1] for i in range(len(x))]
        attack = LBFGS(initial_const=c, binary_search_steps=1, loss=loss)
        ends = run_state(attack, model, x, target).point.flatten(1).double().numpy()
        ours = [objective(net, flat[i], int(target[i]), c, loss)(ends[i])[0] for i in range(len(x))]
        assert np.mean(ours) <= np.mean(scipys) * 1.001
        assert ends.min() >= 0 and ends.max() <= 1
        assert np.mean(np.abs(np.array(ours) - scipys) <= 1e-3 * np.array(scipys)) >= 0.9


@pytest.mark.parametrize("head", HEADS)
def test_the_first_trial_is_scipys(head):
    """Where it lies decides which minimum is found, so both must begin alike."""
    net, model, x, target = batch(head)
    attack, flat = LBFGS(initial_const=3.0, binary_search_steps=1), x.flatten(1).numpy()
    with engine.oracle(model, x.device) as network:
        state = attack.start(network, x, goal(network, x, None, target))
        attack.update(network, state)
    for i, image in enumerate(flat):
        asked, value = [], objective(net, image, int(target[i]), 3.0)
        fmin_l_bfgs_b(
            lambda v, asked=asked, value=value: (asked.append(v.copy()), value(v))[1],
            image, bounds=[(0, 1)] * PIXELS, maxfun=2,
        )  # fmt: skip
        np.testing.assert_allclose(state.x[i].flatten(), asked[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("head", HEADS)
def test_about_as_many_evaluations_as_scipy(head):
    net, model, x, target = batch(head, 20)
    flat, calls = x.flatten(1).numpy(), 0
    for i in range(len(x)):
        value = objective(net, flat[i], int(target[i]), 3.0)
        calls += fmin_l_bfgs_b(value, flat[i], bounds=[(0, 1)] * PIXELS)[2]["funcalls"]
    state = run_state(LBFGS(initial_const=3.0, binary_search_steps=1), model, x, target)
    assert int(state.queries.sum()) / 2 <= 1.1 * calls


def test_the_ends_are_stationary():
    _, model, x, target = batch("codeword", 20)
    state = run_state(LBFGS(initial_const=5.0, binary_search_steps=1, ftol=0.0), model, x, target)
    v = state.point.clone().requires_grad_()
    loss = 5 * model.head.loss(model.pre_activation(v), target) + (v - x).flatten(1).square().sum(1)
    (grad,) = torch.autograd.grad(loss.sum(), v)
    assert ((v - grad).clamp(0, 1) - v).abs().max() <= 1e-5


def test_no_iteration_climbs():
    _, model, x, target = batch("codeword", 20, scale=1)
    attack = LBFGS(initial_const=30.0, binary_search_steps=1)
    with engine.oracle(model, x.device) as network:
        state = attack.start(network, x, goal(network, x, None, target))
        attack.update(network, state)
        for _ in range(100):
            before = 30 * state.loss + state.l2
            attack.update(network, state)
            assert (30 * state.loss + state.l2 <= before + 1e-12).all()
    assert state.moves.max() > 20


def test_the_stopping_rules_stop():
    _, model, x, target = batch("ce")
    attack = LBFGS(initial_const=3.0, binary_search_steps=1)
    full = run_state(attack, model, x, target)
    one = run_state(replace(attack, max_steps=1), model, x, target)
    assert (one.l2 > 0).all() and (one.queries < full.queries).all()
    loose = run_state(replace(attack, ftol=0.01), model, x, target)
    assert loose.queries.sum() < full.queries.sum()
    still = run_state(replace(attack, gtol=1e3), model, x, target)
    assert (still.queries == 2).all() and torch.equal(still.point, x)


# The search over c


@pytest.mark.parametrize("inner", ["scipy", "own"])
@pytest.mark.parametrize("head", HEADS)
def test_the_search_is_cleverhans(head, inner):
    """attacks.py, LBFGS_attack of cleverhans v2.1.0 once more, an image at a time."""
    net, model, x, target = batch(head)
    first, steps, most = np.geomspace(0.1, 10, len(x)), 4, 1000 if inner == "scipy" else 100
    attack = LBFGS(binary_search_steps=steps, max_steps=most, on_failure="clean")
    result = attack.run(model, x, target=target, initial_const=torch.from_numpy(first))
    gaps = []
    for i, image in enumerate(x.flatten(1).numpy()):
        row = slice(i, i + 1)
        lower, upper, c, best, best_l2 = 0, 1e10, first[i], image, np.inf
        for _ in range(steps):
            if inner == "scipy":
                end, _ = minimum(net, image, int(target[i]), c)
            else:
                single = replace(attack, initial_const=c, binary_search_steps=1)
                end = run_state(single, model, x[row], target[row]).point.flatten().numpy()
            l2 = ((end - image) ** 2).sum()
            won = net.judge(end[None], target[row].numpy(), "train")[2][0] == int(target[i])
            if won and l2 < best_l2:
                best, best_l2 = end, l2
            lower, upper = (lower, min(upper, c)) if won else (max(lower, c), upper)
            c = (lower + upper) / 2 if upper < 1e9 else c if won else c * 10
        gaps.append(np.abs(result.adv[i].flatten().numpy() - best).max())
        assert inner == "scipy" or bool(result.success[i]) == np.isfinite(best_l2)
    assert result.success.any() and not result.success.all()
    # SciPy goes to another minimum here and there.
    assert np.quantile(gaps, 0.7 if inner == "scipy" else 1) < 1e-3


def test_bisect_by_hand():
    found = torch.tensor([True, True, False, False])
    const, lower, upper = (
        torch.tensor(v, dtype=torch.float64)
        for v in ([8.0, 8.0, 8.0, 8.0], [0.0, 4.0, 0.0, 0.0], [1e10, 16.0, 1e10, 16.0])
    )
    const, lower, upper = bisect(found, const, lower, upper)
    assert const.tolist() == [4.0, 6.0, 80.0, 12.0]
    assert lower.tolist() == [0.0, 4.0, 8.0, 8.0] and upper.tolist() == [8.0, 8.0, 1e10, 16.0]


def test_a_hasty_row_ends_with_its_first_success():
    _, model, x, target = batch("ce")
    attack = LBFGS(**EASY)
    patient = run_state(attack, model, x, target)
    with engine.oracle(model, x.device) as network:
        state = attack.start(network, x, goal(network, x, None, target))
        state.first_success[::2] = True
        scheduler.run_batch(attack, network, state)
    assert torch.equal(state.won, patient.won) and (state.search[::2] < 4).any()
    assert (state.search[1::2] == 4).all()
    torch.testing.assert_close(state.best[1::2], patient.best[1::2], rtol=0, atol=1e-4)
    assert (state.best_l2[::2] >= patient.best_l2[::2] - 1e-4).all()


def test_a_failure_returns_the_lowest_loss_or_the_image():
    _, model, x, target = batch("ce")
    attack = LBFGS(initial_const=1e-3, binary_search_steps=2)
    result = attack.run(model, x, target=target)
    failed = ~result.success
    assert failed.sum() >= 6 and (result.l2 > 0).all()
    ends = [
        run_state(replace(attack, initial_const=c, binary_search_steps=1), model, x, target).point
        for c in (1e-3, 1e-2)
    ]
    losses = torch.stack([model.head.loss(model.pre_activation(end), target) for end in ends])
    lowest = torch.stack(ends)[losses.argmin(0), torch.arange(len(x))]
    torch.testing.assert_close(result.adv[failed], lowest[failed])
    clean = replace(attack, on_failure="clean").run(model, x, target=target)
    assert torch.equal(clean.adv[failed], x[failed])
    assert torch.equal(clean.adv[~failed], result.adv[~failed])


# Closed forms


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("codewords", [False, True])
def test_two_classes_of_a_linear_model_are_reached_by_the_shortest_way(codewords, boxed):
    """Between two classes, or codewords of linear units, lies one hyperplane."""
    net, x = nn.Linear(20, 8 if codewords else 2).double(), torch.rand(30, 20).double()
    if codewords:
        book = fr.Codebook.random(2, 8, key="two")
        model = fr.Classifier(net, fr.heads.Codeword(book)).double()
        model.head.activation = "none"
        vectors = book.vectors.double()
        normal = (vectors[0] - vectors[1]) @ net.weight.detach()
    else:
        model, normal = net, (net.weight[0] - net.weight[1]).detach()
    scores = model(x).detach() * (8 / 12 if codewords else 1)
    margin = scores[:, 0] - scores[:, 1]
    target = (margin > 0).long()
    distance = margin.abs() / normal.norm()
    attack = LBFGS(
        initial_const=1.0, binary_search_steps=20, loss="ce", clip=(0.0, 1.0) if boxed else None
    )
    result = attack.run(model, x, target=target)
    assert result.success.all()
    inside = x - (margin / normal.square().sum())[:, None] * normal
    inside = ((inside > 0) & (inside < 1)).all(1) if boxed else torch.ones(30).bool()
    assert inside.sum() >= 5
    assert (result.l2 >= distance * (1 - 1e-9)).all()
    assert (result.l2 <= distance * 1.02)[inside].all()


# What must not matter


@pytest.mark.parametrize("head", HEADS)
def test_rows_do_not_see_each_other(head):
    _, model, x, target = batch(head)
    attack = LBFGS(**EASY)
    const = torch.linspace(0.1, 5, len(x)).double()
    result = attack.run(model, x, target=target, initial_const=const)
    assert torch.equal(const, torch.linspace(0.1, 5, len(x)).double())
    order = torch.randperm(len(x))
    mixed = attack.run(model, x[order], target=target[order], initial_const=const[order])
    fields = ("success", "claimed", "decision", "invalid")
    torch.testing.assert_close(mixed.adv, result.adv[order], rtol=0, atol=1e-4)
    assert all(torch.equal(getattr(mixed, f), getattr(result, f)[order]) for f in fields)
    for i in range(len(x)):
        single = replace(attack, initial_const=float(const[i]))
        alone = single.run(model, x[i : i + 1], target=target[i : i + 1])
        torch.testing.assert_close(alone.adv, result.adv[i : i + 1], rtol=0, atol=1e-4)
        assert all(torch.equal(getattr(alone, f), getattr(result, f)[i : i + 1]) for f in fields)


def test_the_model_is_left_as_it_was():
    _, model, x, target = batch("codeword")
    model.train()
    before = [(p.clone(), p.grad, p.requires_grad) for p in model.parameters()]
    adv = LBFGS(**EASY)(model, x.clone().requires_grad_(), target=target)
    assert model.training and not adv.requires_grad
    for parameter, (value, grad, wanted) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value) and parameter.grad is grad
        assert parameter.requires_grad is wanted


# Views, and what is refused


def test_in_units_view_it_believes_the_largest_unit():
    net, model, x, target = batch("codeword", 40, scale=1)
    labels = torch.from_numpy(net.vectors).argmax(1)[target]
    claimed = LBFGS(**EASY, view="units").run(model, x, target=target)
    own = model.units(claimed.adv).argmax(1) == labels
    assert torch.equal(claimed.claimed, own) and claimed.claimed.any()
    assert torch.equal(claimed.success, model.predict(claimed.adv) == target)
    assert not torch.equal(claimed.claimed, claimed.success)
    honest = LBFGS(**EASY).run(model, x, target=target)
    assert torch.equal(honest.claimed, honest.success)


def test_on_one_hot_targets_both_views_are_one():
    for head in ("ce", "mse"):
        _, model, x, target = batch(head)
        one, other = (
            LBFGS(**EASY, view=view).run(model, x, target=target) for view in ("class", "units")
        )
        assert torch.equal(one.adv, other.adv) and torch.equal(one.claimed, other.claimed)


def test_rows_of_nan_leave_the_others_alone():
    _, model, x, target = batch("ce")
    x[:, 0, 0, 0] = torch.tensor([0.1, 0.9] * 6)

    def sometimes(images):  # from the start, or once the search has moved
        return torch.where((images[:, 0, 0, 0] > 0.85)[:, None], torch.nan, model(images))

    with pytest.warns(UserWarning, match="the model gave NaN for"):
        result = LBFGS(**EASY).run(sometimes, x, target=target)
    assert result.invalid[1::2].all() and not result.invalid.all()
    assert torch.equal(result.adv[result.invalid], x[result.invalid])
    assert not (result.success | result.claimed)[result.invalid].any()
    held = ~result.invalid
    alone = LBFGS(**EASY).run(model, x[held], target=target[held])
    torch.testing.assert_close(result.adv[held], alone.adv, rtol=0, atol=1e-6)


def test_without_any_gradient_it_stalls_at_the_image():
    def flat(x):
        return torch.tensor([1.0, 0.0]).double() + 0 * x.flatten(1)[:, :1]

    x = torch.rand(3, 4).double()
    result = LBFGS().run(flat, x, target=torch.tensor([1, 0, 1]))
    assert result.stalled.tolist() == [True, False, True]
    assert result.success.tolist() == [False, True, False] and torch.equal(result.adv, x)


def test_what_it_cannot_do_is_refused_in_the_users_words():
    _, model, x, target = batch("ce")
    y = model.predict(x)
    attack, few = LBFGS(), torch.tensor([1.0] * 11 + [0.0])
    for arguments, error, words in (
        ({}, ValueError, "LBFGS must have a target in every row"),
        ({"y": y}, ValueError, "targeted only"),
        ({"y": y, "target": y}, ValueError, "target must differ from y"),
        ({"target": target, "initial_const": 0.0}, ValueError, "must be finite and > 0"),
        ({"target": target, "initial_const": few}, ValueError, "must be finite and > 0"),
        ({"target": target, "initial_const": -1.0}, ValueError, "initial_const must be finite"),
        ({"target": target, "initial_const": few[:3]}, ValueError, r"have shape \(12,\)"),
        ({"target": target, "eps": 0.1}, TypeError, "must be given initial_const per row, got eps"),
    ):
        with pytest.raises(error, match=words):
            attack.run(model, x, **arguments)
    with pytest.raises(ValueError, match="x must lie in the box"):
        attack(model, x * 2, target=target)
    empty = attack.run(model, x[:0], target=target[:0])
    assert empty.adv.shape == x[:0].shape


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"initial_const": 0}, ValueError, "initial_const must be > 0 and finite, got 0"),
        ({"initial_const": np.inf}, ValueError, "initial_const must be >= 0 and finite, got inf"),
        ({"binary_search_steps": 0}, ValueError, "binary_search_steps must be >= 1, got 0"),
        ({"history": 2.5}, TypeError, "history must be an integer, got 2.5"),
        ({"ftol": -1}, ValueError, "ftol must be >= 0"),
        ({"loss": "dlr"}, ValueError, "loss must be one of 'train', 'ce', got 'dlr'"),
        ({"view": "logits"}, ValueError, "view must be one of 'class', 'units', got 'logits'"),
        ({"on_failure": "last"}, ValueError, "on_failure must be one of 'best', 'clean'"),
    ],
)
def test_fields_are_checked(values, error, words):
    with pytest.raises(error, match=words):
        LBFGS(**values)


def test_defaults_are_the_papers_and_the_repr_reads_back():
    assert repr(LBFGS()) == "LBFGS()"
    assert vars(LBFGS()) == {
        "initial_const": 1e-2, "binary_search_steps": 5, "max_steps": 1000, "history": 10,
        "ftol": 2.2e-9, "gtol": 1e-5, "loss": "train", "view": "class", "on_failure": "best",
        "clip": (0.0, 1.0),
    }  # fmt: skip
    attack = LBFGS(initial_const=1, view="units", gtol=0)
    assert repr(attack) == "LBFGS(initial_const=1.0, gtol=0.0, view='units')"
    assert from_repr(repr(attack)) == attack


def test_a_step_not_made_costs_what_those_made_did():
    _, model, x, target = batch("ce", 4)
    attack = LBFGS(max_steps=5, binary_search_steps=3)
    state = run_state(attack, model, x, target)
    torch.testing.assert_close(attack.cost_of_a_step(state), state.queries / 3)
