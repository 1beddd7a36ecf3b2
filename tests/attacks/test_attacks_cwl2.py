"""CWL2 and the modified CWL2: against numpy, closed forms, and what must not change them."""

from dataclasses import replace

import attack_table
import numpy as np
import numpy_attacks
import numpy_cw
import pytest
import torch
from test_attacks_golden import images, iterates, labels, run  # noqa: F401
from test_attacks_metamorphic import images as pictures
from test_attacks_metamorphic import same, small_model
from torch import nn

import fastrobust as fr
from fastrobust.attacks import CWL2, ModifiedCWL2
from fastrobust.engine import scheduler

HEADS = ("ce", "mse", "codeword", "linear")
FAMILY = {
    "class": (numpy_cw.Scores, CWL2(view="class")),
    "units": (numpy_cw.Units, CWL2(view="units")),
    "modified": (numpy_cw.Distances, ModifiedCWL2()),
    "squared": (lambda *a: numpy_cw.Distances(*a, power=2), ModifiedCWL2(metric="squared")),
    "probabilities": (
        lambda *a: numpy_cw.Distances(*a, probabilities=True),
        ModifiedCWL2(probabilities=True),
    ),
}


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", FAMILY)
def test_every_image_and_every_c(name, head, targeted, iterates):  # noqa: F811
    """30 steps for each of 5 c, image by image, with aborts, confidence and both ways to fail."""
    net, (rows, x) = numpy_attacks.Net.make(head), images(3)
    y = labels(net, rows)
    rewrite, attack = FAMILY[name]
    fields = {"initial_const": 0.05, "max_steps": 30, "learning_rate": 0.05}
    won, steps = [], []
    for row in range(len(x)):
        for extra in (
            {"abort_from": 1e6},
            {"confidence": 0.1, "abort_early": False, "binary_search_steps": 2},
        ):
            iterates.clear()
            loss = rewrite(net, rows[row], y[row], targeted)
            asked, consts, best, least = numpy_cw.search(loss, rows[row], **fields, **extra)
            made = replace(attack, **fields, **extra)
            one = slice(row, row + 1)
            result = run(made, net, x[one], y[one], targeted)
            seen = [image[0] for image in iterates]
            assert len(seen) == len(asked) == (int(result.queries) - 1) // 2
            np.testing.assert_allclose(seen, asked, rtol=0, atol=1e-8)
            expected = least if best is None else best
            np.testing.assert_allclose(result.adv.flatten().numpy(), expected, rtol=0, atol=1e-8)
            assert bool(result.claimed) == (best is not None)
            clean = replace(made, on_failure="clean")
            if best is None:
                assert torch.equal(run(clean, net, x[one], y[one], targeted).adv, x[one])
            won.append(best is not None)
            steps.append(len(consts))
    # A codeword as label vector of its own units is out of reach: the paper's CWL2 on codewords.
    assert (True in won) is not ((name, head, targeted) == ("units", "codeword", True))
    assert set(steps) == {5, 2}


def test_a_search_of_ten_steps_ends_at_the_smallest_success(iterates):  # noqa: F811
    net, (rows, x) = numpy_attacks.Net.make("ce"), images(4)
    y = labels(net, rows)
    fields = {"max_steps": 12, "learning_rate": 0.1, "binary_search_steps": 11}
    for row in range(len(x)):
        iterates.clear()
        loss = numpy_cw.Scores(net, rows[row], y[row], False)
        asked, _, best, _ = numpy_cw.search(loss, rows[row], **fields)
        one = slice(row, row + 1)
        result = run(CWL2(**fields), net, x[one], y[one], False)
        np.testing.assert_allclose([image[0] for image in iterates], asked, rtol=0, atol=1e-8)
        if best is not None:
            np.testing.assert_allclose(result.adv.flatten().numpy(), best, rtol=0, atol=1e-8)


def test_the_box_may_be_another():
    net, (rows, x) = numpy_attacks.Net.make("ce"), images(3)
    y = labels(net, rows)
    fields = {"max_steps": 20, "learning_rate": 0.05, "initial_const": 1.0}
    attack = CWL2(**fields, clip=(-1, 2))
    result = run(attack, net, x, y, False)
    for row in range(len(x)):
        loss = numpy_cw.Scores(net, rows[row], y[row], False)
        _, _, best, least = numpy_cw.search(loss, rows[row], **fields, lo=-1.0, hi=2.0)
        expected = least if best is None else best
        np.testing.assert_allclose(result.adv[row].flatten(), expected, rtol=0, atol=1e-8)


# Closed forms


def distances(weight, bias, x, y):
    """Distance (N,) of images to the nearest hyperplane between y and another class, no box."""
    scores = x @ weight.T + bias
    gap = scores.gather(1, y[:, None]) - scores
    width = (weight[y][:, None] - weight[None]).norm(dim=2)
    own = nn.functional.one_hot(y, len(bias)).bool()
    return (gap / width).masked_fill(own, torch.inf).amin(1)


def linear_codewords(classes, pixels):
    """Units that are linear in the image: boundaries between codewords are hyperplanes too."""

    class Units(fr.heads.Head):
        def __init__(self, book):
            super().__init__("none", "mse", book.vectors.clone())

    book = fr.Codebook.random(classes, 8, key="hyperplanes")
    net = nn.Linear(pixels, 8).double()
    net.weight.data *= 3
    model = fr.Classifier(net, Units(book)).double()
    vectors = book.vectors.double()
    weight = vectors @ net.weight.detach()
    bias = vectors @ net.bias.detach() - vectors.square().sum(1) / 2
    return model, weight, bias


def far_images(weight, bias, count=12):
    """Images with their labels and distances, none nearer than some of Adam's steps."""
    x = torch.rand(20 * count, 12).double()
    y = (x @ weight.T + bias).argmax(1)
    least = distances(weight, bias, x, y)
    far = (least > 0.05).nonzero().flatten()[:count]
    return x[far], y[far], least[far]


PATIENT = {
    "binary_search_steps": 20, "max_steps": 300, "learning_rate": 3e-3, "initial_const": 1.0,
    "clip": (-2.0, 3.0), "abort_early": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "codewords", "kind"),
    [(2, False, CWL2), (2, True, ModifiedCWL2), (10, False, ModifiedCWL2), (10, True, CWL2)],
)
def test_the_least_distance_to_hyperplanes(classes, codewords, kind):
    """Within 2% at K = 2; at K = 10 the rival class is greedy, so the median is."""
    if codewords:
        model, weight, bias = linear_codewords(classes, 12)
    else:
        model = nn.Linear(12, classes).double()
        weight, bias = model.weight.detach(), model.bias.detach()
    x, y, least = far_images(weight, bias)
    result = kind(**PATIENT).run(model, x, y)
    assert result.success.all() and result.claimed.all()
    share = result.l2 / least
    assert share.min() > 1 - 1e-3  # nothing is nearer than the nearest hyperplane
    assert share.max() < 1.02 if classes == 2 else share.median() < 1.02


def test_a_target_is_reached_at_the_least_distance():
    model = nn.Linear(12, 2).double()
    weight, bias = model.weight.detach(), model.bias.detach()
    x, y, least = far_images(weight, bias)
    result = ModifiedCWL2(**PATIENT).run(model, x, target=1 - y)
    share = result.l2 / least
    assert result.success.all() and share.max() < 1.02


# What must not change a result, and what must

QUICK = {"max_steps": 40, "learning_rate": 0.05, "initial_const": 0.1, "binary_search_steps": 3}
ATTACKS = attack_table.CW
CLOSE = {"rtol": 0, "atol": 1e-7}  # forty steps of Adam on sums in another order


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_a_row_depends_on_itself_alone(attack, targeted):
    model, (x, y) = small_model(), pictures()
    wish = {"target": (y + 1) % 5} if targeted else {"y": y}
    const = 10 ** torch.linspace(-3, 2, len(x)).double()
    result = attack.run(model, x, **wish, initial_const=const)
    order = torch.randperm(len(x))
    turned = {name: value[order] for name, value in wish.items()}
    permuted = attack.run(model, x[order], **turned, initial_const=const[order])
    same(permuted, result, order, **CLOSE)
    for row in range(len(x)):
        one = slice(row, row + 1)
        single = replace(attack, initial_const=const[row].item())
        alone = single.run(model, x[one], **{name: v[one] for name, v in wish.items()})
        same(alone, result, one, **CLOSE)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_rows_that_leave_the_batch_change_nothing(attack, monkeypatch):
    model, (x, y) = small_model(), pictures(24)
    target = (y + 1) % 5
    result = attack.run(model, x, target=target)
    monkeypatch.setattr(scheduler, "_shrunk", lambda size, *_: size)
    same(attack.run(model, x, target=target), result, **CLOSE)


def test_float32_follows_float64():
    x, y = pictures(40)
    for attack in ATTACKS[:1] + ATTACKS[3:4]:
        exact = attack.run(small_model(), x, y)
        single = attack.run(small_model(torch.float32), x.float(), y)
        assert single.adv.dtype is torch.float32
        assert (single.success != exact.success).sum() <= 1
        assert ((single.l2 - exact.l2).abs() < 1e-2).float().mean() > 0.9


def test_the_model_and_the_images_are_left_alone():
    model, (x, y) = small_model(), pictures()
    model.train()
    before = x.clone()
    result = CWL2(**QUICK).run(model, x, y)
    assert torch.equal(x, before) and not result.adv.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert result.adv.min() >= 0 and result.adv.max() <= 1


def test_more_is_never_less():
    """A success of the search is one of the decision in class view; distances are minimal."""
    model, (x, y) = small_model(), pictures(60)
    short = CWL2(**QUICK).run(model, x, y)
    long = CWL2(**{**QUICK, "binary_search_steps": 6}).run(model, x, y)
    assert torch.equal(short.claimed, short.success) and torch.equal(long.claimed, long.success)
    assert (long.success | ~short.success).all()
    both = short.success & long.success
    assert (long.l2[both] <= short.l2[both] + 1e-9).all()


def test_units_of_codewords_are_false_successes():
    """The paper's flat rows: the largest unit changes, the nearest codeword does not."""
    model, x = small_model(), pictures(60)[0]
    units = CWL2(**QUICK, view="units").run(model, x)
    assert units.claimed.float().mean() > 0.8
    assert units.success.float().mean() < 0.7
    assert torch.equal(units.success, units.decision != model.predict(x))
    classes = CWL2(**QUICK).run(model, x)
    assert classes.success.sum() > units.success.sum()


@pytest.mark.parametrize("kind", [CWL2, ModifiedCWL2])
def test_bad_input_is_refused_in_the_users_words(kind):
    model, (x, y) = small_model(), pictures()
    for words, error, fields in (
        ("initial_const must be > 0 and finite, got 0", ValueError, {"initial_const": 0}),
        ("initial_const must be >= 0 and finite", ValueError, {"initial_const": torch.inf}),
        ("max_steps must be >= 1, got 0", ValueError, {"max_steps": 0}),
        ("binary_search_steps must be an integer", TypeError, {"binary_search_steps": 1.5}),
        ("learning_rate must be > 0", ValueError, {"learning_rate": 0.0}),
        ("abort_early must be True or False", TypeError, {"abort_early": 1}),
        ("abort_from must be >= 0", ValueError, {"abort_from": -1}),
        ("on_failure must be one of 'best', 'clean'", ValueError, {"on_failure": "x"}),
        ("clip must be a box, got None", ValueError, {"clip": None}),
    ):
        with pytest.raises(error, match=words):
            kind(**fields)
    attack = kind(max_steps=2)
    for words, error, given in (
        ("target must differ from y", ValueError, {"y": y, "target": y}),
        ("initial_const must be finite and > 0", ValueError, {"y": y, "initial_const": -1.0}),
        ("> 0 in every row, got 0", ValueError, {"y": y, "initial_const": torch.zeros(12)}),
        ("must be given initial_const per row, got eps", TypeError, {"y": y, "eps": 0.1}),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            attack.run(model, x, **given)
    with pytest.raises(ValueError, match="x must lie in the box"):
        attack.run(model, x * 2 - 1, y)


@pytest.mark.parametrize("kind", [CWL2, ModifiedCWL2])
def test_rows_of_nan_are_flagged_and_left_alone(kind):
    net, (x, y) = small_model(), pictures(8)

    def sometimes(x):
        return torch.where((x[:, 0, 0, 0] > 0.5)[:, None], torch.nan, net(x))

    x[:, 0, 0, 0] = torch.tensor([0.1, 0.9] * 4)
    y = net.predict(x)
    bad = torch.tensor([False, True] * 4)
    with pytest.warns(UserWarning, match="NaN for"):
        result = kind(**QUICK).run(sometimes, x, y)
    assert result.invalid[bad].all() and torch.equal(result.adv[bad], x[bad])
    assert not result.success[bad].any() and not result.claimed[bad].any()
    assert torch.isfinite(result.adv).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_cuda_follows_the_cpu(attack):
    x, y = pictures(32)
    here = attack.run(small_model(), x, y)
    there = attack.run(small_model().cuda(), x.cuda(), y.cuda())
    torch.testing.assert_close(there.adv.cpu(), here.adv, rtol=0, atol=1e-5)
    assert torch.equal(there.success.cpu(), here.success)
