"""APGD and multi-targeted PGD against their numpy rewrite and closed forms."""

import numpy as np
import numpy_apgd
import numpy_attacks
import pytest
import torch
from torch import nn

import fastrobust as fr
from fastrobust.attacks import APGD, FAB, FGSM, PGD
from fastrobust.attacks.apgd import _windows
from fastrobust.attacks.targets import highest_rivals


def batch(head, count=16, seed=1):
    net = numpy_attacks.Net.make(head)
    rows = np.random.default_rng(seed).uniform(-0.2, 1.2, (count, 12)).clip(0, 1)
    y = net.judge(rows, np.zeros(count, int), "ce")[2]
    return net, rows, torch.from_numpy(rows).view(-1, *numpy_attacks.SHAPE), y


@pytest.mark.parametrize("steps", [100, 50, 10, 3, 1])
def test_windows_are_those_of_the_paper(steps):
    lengths = _windows(steps, torch.device("cpu"))
    ends = lengths.nonzero().flatten().tolist()
    assert lengths[ends].tolist() == np.diff([0, *ends]).tolist()
    assert len(lengths) == steps + 1
    if steps == 100:
        assert ends == numpy_apgd.checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("head", ["ce", "codeword"])
def test_apgd_follows_its_rewrite(head, loss, norm):
    net, rows, x, y = batch(head)
    # DLR of the third class is constant but for its 1e-12: its gradient is rounding noise.
    for eps, clip in ((0.05, (0, 1)), (0.1, None)):
        eps *= 1 if norm == "linf" else 3
        made = APGD(eps=eps, loss=loss, norm=norm, clip=clip, restarts=2)
        found = made.run(net.torch(), x, torch.from_numpy(y), seed=3)
        starts = [_start(rows, eps, norm, clip, restart) for restart in range(2)]
        expected, won = numpy_apgd.attack(net, rows, y, loss, eps, norm, clip, 100, starts)
        assert 0 < won.sum() < len(won)
        assert found.success.tolist() == won.tolist() == found.claimed.tolist()
        # Where a search has converged, rounding decides which of its last iterates is the best.
        same = np.abs(found.adv.flatten(1).numpy() - expected).max(1) < 1e-7
        assert same.mean() > (0.8 if loss == "dlr" else 0.99)


def _start(rows, eps, norm, clip, restart):
    x0 = torch.from_numpy(rows)
    index = torch.arange(len(rows))
    box = clip or (None, None)
    return fr.ops.random_start_(x0.clone(), x0, norm, eps, 3, index, restart, *box).numpy()


@pytest.mark.parametrize("kind", [APGD, PGD])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_with_targets_every_rival_gets_a_run_of_its_own(kind, loss):
    """The nearest class is one that no change leads to; the next one is as far as it is."""
    torch.manual_seed(0)
    net, x = nn.Linear(20, 3).double(), torch.rand(400, 20).double()
    with torch.no_grad():
        net.weight[1] = net.weight[0]
        net.bias[1] = net.bias[0] - 1e-3
        net.bias[0] += 0.5
        net.bias[1] += 0.5
    y = net(x).argmax(1)
    x, y = x[y == 0], y[y == 0]
    scores = net(x).detach()
    order = highest_rivals(scores, y, 9)
    gap = scores[:, 0] - scores[:, 2] - 0.1 * (net.weight[0] - net.weight[2]).abs().sum().detach()
    fields = {"eps": 0.1, "loss": loss, "steps": 20, "clip": None}
    if kind is PGD:
        fields["step_size"] = 0.02
    one = kind(targets=1, **fields).run(net, x, y)
    many = kind(targets=9, **fields).run(net, x, y)
    assert torch.equal(many.success, gap < 0) and 10 < many.success.sum() < len(x) - 10
    # Towards the class that cannot be reached only a lucky start wins.
    hopeless = order[:, 0] == 1
    assert 3 * one.success[hopeless].sum() < many.success[hopeless].sum()
    assert torch.equal(one.success[order[:, 0] == 2], many.success[order[:, 0] == 2])
    lost = ~many.success
    assert (many.queries[lost] - 2 > 1.9 * (one.queries[lost] - 2)).all()


LINEAR = [
    APGD(eps=0.1, loss="margin"),
    APGD(eps=0.1, loss="margin", steps=1),
    APGD(eps=0.1, loss="ce", restarts=2),
    APGD(eps=0.1, loss="margin", targets=1, steps=50),
    PGD(eps=0.1, loss="margin", targets=1, step_size=0.02),
]


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("attack", LINEAR, ids=repr)
def test_linear_models_are_broken_where_they_can_be(attack, boxed):
    """In a ball of linf the margin of a linear model falls by the reach times |w|, no further."""
    torch.manual_seed(0)
    net, x = nn.Linear(20, 2).double(), torch.rand(200, 20).double()
    y = net(x).argmax(1)
    w = (net.weight[y] - net.weight[1 - y]).detach()
    margin = (net(x).gather(1, y[:, None]) - net(x).gather(1, 1 - y[:, None]))[:, 0].detach()
    reach = torch.full_like(x, 0.1)
    if boxed:
        reach = torch.where(w > 0, x, 1 - x).clamp(max=0.1)
    box = (0.0, 1.0) if boxed else None
    found = type(attack)(**{**vars(attack), "clip": box}).run(net, x, y)
    expected = margin - (w.abs() * reach).sum(1) < 0
    assert torch.equal(found.success, expected) and 20 < expected.sum() < 180


@pytest.mark.parametrize("targets", [0, 2])
def test_l2_reaches_the_nearest_class_of_a_linear_model(targets):
    torch.manual_seed(0)
    net, x = nn.Linear(20, 3).double(), torch.rand(200, 20).double()
    scores, weight = net(x).detach(), net.weight.detach()
    y, rows = scores.argmax(1), torch.arange(200)
    gaps = scores[rows, y, None] - scores
    distance = gaps / (weight[y, None] - weight[None]).norm(dim=2)
    distance[rows, y] = torch.inf
    nearest = distance.amin(1)
    loss = "dlr" if targets else "margin"
    found = APGD(eps=0.3, loss=loss, norm="l2", clip=None, targets=targets).run(net, x, y)
    # At the very edge the last step stops short by what the halved sizes leave.
    assert not (found.success & (nearest > 0.3)).any()
    assert found.success[nearest < 0.3 * 0.99].all() and 20 < found.success.sum() < 180
    assert (found.l2 <= 0.3 + 1e-12).all()


@pytest.mark.parametrize("kind", [APGD, PGD])
def test_a_run_starts_where_it_is_told_to(kind):
    net, _, x, y = batch("ce", count=40)
    model, y = net.torch(), torch.from_numpy(y)
    attack = kind(eps=0.05, steps=3, loss="margin")
    best = APGD(eps=0.05, loss="margin", restarts=5).run(model, x, y)
    assert 5 < best.success.sum() < 40
    # An image that is adversarial already is the answer of the first question.
    again = attack.run(model, x, y, start=best.adv)
    assert torch.equal(again.success, best.success | again.success)
    if kind is APGD:
        assert torch.equal(again.adv[best.success], best.adv[best.success])
        assert (again.queries[best.success] == 3).all()
    # Whatever the start, ball and box hold.
    far = attack.run(model, x, y, start=torch.full_like(x, 3.0))
    assert (far.linf <= 0.05 + 1e-12).all() and far.adv.min() >= 0 and far.adv.max() <= 1
    with pytest.raises(ValueError, match="start must be like x"):
        attack.run(model, x, y, start=x[:3])
    with pytest.raises(ValueError, match="start must be finite"):
        attack.run(model, x, y, start=x * torch.nan)
    with pytest.raises(TypeError, match="start must be for PGD or APGD, got one for FGSM"):
        FGSM(eps=0.1).run(model, x, y, start=x)


@pytest.mark.parametrize("kind", [APGD, PGD, FAB])
def test_given_rivals_are_those_that_it_goes_for(kind):
    net, _, x, y = batch("ce", count=40)
    model, y = net.torch(), torch.from_numpy(y)
    fields = {"eps": 0.1, "steps": 8} if kind is FAB else {"eps": 0.1, "steps": 8, "loss": "margin"}
    order = highest_rivals(model(x).detach(), y, 2)
    own = kind(targets=2, **fields).run(model, x, y)
    given = kind(targets=1, **fields).run(model, x, y, rivals=order)
    assert torch.equal(given.adv, own.adv) and torch.equal(given.success, own.success)
    assert torch.equal(given.queries, own.queries - 1) and own.success.sum() > 0
    second = kind(targets=1, **fields).run(model, x, y, rivals=order[:, 1:])
    assert not torch.equal(second.adv, kind(targets=1, **fields).run(model, x, y).adv)
    for wrong, words in (
        (order[:5], r"rivals must have shape \(40, T\)"),
        (y[:, None], "rivals must differ from y"),
        (order + 10, "rivals must"),
    ):
        with pytest.raises(ValueError, match=words):
            kind(targets=1, **fields).run(model, x, y, rivals=wrong)
    with pytest.raises(TypeError, match="rivals must be for an attack with targets"):
        FGSM(eps=0.1).run(model, x, y, rivals=order)


def test_rivals_are_the_highest_other_classes():
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, -1.0]])
    assert highest_rivals(scores, torch.tensor([0, 1]), 9).tolist() == [[2, 1], [0, 2]]
    assert highest_rivals(scores, torch.tensor([1, 2]), 1).tolist() == [[0], [0]]


def test_wrong_fields_are_refused():
    with pytest.raises(ValueError, match="loss must be one of ce, margin, dlr with targets"):
        APGD(eps=0.1, loss="train", targets=3)
    with pytest.raises(ValueError, match="loss must be one of ce, margin, dlr with targets"):
        PGD(eps=0.1, loss="units-ce", targets=3)
    net, _, x, y = batch("ce", count=4)
    with pytest.raises(ValueError, match="chooses its targets itself, got a target in 4 of 4"):
        APGD(eps=0.1, targets=2).run(net.torch(), x, target=torch.from_numpy(y))
    assert repr(APGD(eps=0.1, targets=9, loss="dlr")) == "APGD(eps=0.1, loss='dlr', targets=9)"
