"""Attacks on classifiers whose worst case in the ball is known in closed form.

Inside an linf ball of radius eps the margin of a linear two-class model falls by eps * |w|_1 and no
further (by eps * |w|_2 inside an l2 ball): an attack that follows the sign of the gradient gets all
of it. So it does where every unit is a monotone function of one pixel, tanh codewords included.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

import fastrobust as fr
from fastrobust.attacks import APGD, BIM, FGSM, MIM, PGD, Square

PIXELS, EPS = 20, 0.1

LINF = [
    FGSM(eps=EPS),
    BIM(eps=EPS, steps=20),
    MIM(eps=EPS, steps=20),
    PGD(eps=EPS, step_size=0.02),
    PGD(eps=EPS, step_size=0.02, keep="last"),
    PGD(eps=EPS, step_size=0.02, random_start=False, loss="margin"),
]
MORE = [APGD(eps=EPS), APGD(eps=EPS, targets=1), Square(eps=EPS, queries=1000)]


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(PIXELS, 2).double()


def margin(net, x, y):
    """(N,) score of y minus the other's."""
    scores = net(x).detach()
    rows = torch.arange(len(x))
    return scores[rows, y] - scores[rows, 1 - y]


def normal(net, y):
    """(N, n) gradient of the margin of y."""
    weight = net.weight.detach()
    return weight[y] - weight[1 - y]


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("attack", LINF, ids=repr)
def test_linf_attacks_reach_the_smallest_margin(attack, targeted, boxed):
    net, x = linear(), torch.rand(200, PIXELS).double()
    y = net(x).argmax(1)
    w = normal(net, y)
    goal = {"target": 1 - y} if targeted else {"y": y}
    result = (attack if boxed else replace(attack, clip=None)).run(net, x, **goal)
    reach = torch.full_like(x, EPS)
    if boxed:
        reach = torch.where(w > 0, x, 1 - x).clamp(max=EPS)
    smallest = margin(net, x, y) - (w.abs() * reach).sum(1)
    assert torch.equal(result.success, smallest < 0)
    assert 20 < result.success.sum() < 180
    if getattr(attack, "keep", "last") == "last":  # the best-keeper stops at its first success
        torch.testing.assert_close(margin(net, result.adv, y), smallest)
    else:
        held = ~result.success
        torch.testing.assert_close(margin(net, result.adv[held], y[held]), smallest[held])


@pytest.mark.parametrize("restarts", [1, 2])
def test_l2_attack_reaches_the_smallest_margin(restarts):
    net, x = linear(), torch.rand(200, PIXELS).double()
    y = net(x).argmax(1)
    eps = 0.4
    attack = PGD(eps=eps, step_size=0.05, norm="l2", clip=None, restarts=restarts, steps=100)
    result = attack.run(net, x, y)
    smallest = margin(net, x, y) - eps * normal(net, y).norm(dim=1)
    assert torch.equal(result.success, smallest < 0)
    held = ~result.success
    assert 20 < held.sum() < 180
    torch.testing.assert_close(margin(net, result.adv, y)[held], smallest[held], rtol=0, atol=1e-6)
    assert (result.l2 <= eps + 1e-12).all()


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("attack", [*LINF[:4], *MORE], ids=repr)
def test_codewords_of_monotone_units(attack, loss):
    """Unit j is tanh(a_j x_j + b_j): each pixel has one best side of its ball."""
    book = fr.Codebook.random(2, PIXELS, key="monotone")
    net = nn.Linear(PIXELS, PIXELS).double()
    net.weight.data.copy_(torch.diag(torch.randn(PIXELS)))
    model = fr.Classifier(net, fr.heads.Codeword(book)).double()
    x = torch.rand(200, PIXELS).double()
    y = model.predict(x)
    vectors = book.vectors.double()
    gap = vectors[y] - vectors[1 - y]

    def codeword_margin(x):
        return (net(x).tanh() * gap).sum(1) - (vectors[y] ** 2 - vectors[1 - y] ** 2).sum(1) / 2

    best = x - EPS * (gap * net.weight.diag()).sign()
    smallest = codeword_margin(best).detach()
    result = replace(attack, loss=loss, clip=None).run(model, x, y)
    assert 20 < (smallest < 0).sum() < 180
    assert torch.equal(result.success, smallest < 0)
    # What keeps its best image stops at its first success.
    ends = isinstance(attack, (APGD, Square)) or getattr(attack, "keep", "last") == "best"
    held = ~result.success if ends else slice(None)
    found = codeword_margin(result.adv).detach()
    torch.testing.assert_close(found[held], smallest[held])


def test_a_codeword_of_one_unit_is_a_hyperplane_in_pixels():
    net = nn.Linear(PIXELS, 1).double()
    model = fr.Classifier(
        net, fr.heads.Codeword(fr.Codebook(torch.tensor([[-0.5], [0.7]])))
    ).double()
    x = torch.rand(200, PIXELS).double()
    y = model.predict(x)
    boundary = torch.atanh(torch.tensor(0.1).double())  # halfway between the codewords
    distance = (net(x).detach()[:, 0] - boundary).abs()
    result = PGD(eps=EPS, clip=None).run(model, x, y)
    assert torch.equal(result.success, distance < EPS * net.weight.detach().abs().sum())
    assert 20 < result.success.sum() < 180


def test_no_attack_claims_more_than_ten_hyperplanes_allow():
    net = nn.Linear(PIXELS, 10).double()
    x = torch.rand(300, PIXELS).double()
    y = net(x).argmax(1)
    scores, weight = net(x).detach(), net.weight.detach()
    gaps = scores.gather(1, y[:, None]) - scores
    widths = (weight[y][:, None] - weight[None]).abs().sum(2)
    own = nn.functional.one_hot(y, 10).bool()
    radius = (gaps / widths).masked_fill(own, torch.inf).amin(1)  # exact, without a box
    eps = radius.median().item()
    for loss in ("ce", "margin", "dlr"):
        result = PGD(eps=eps, step_size=eps / 10, loss=loss, clip=None).run(net, x, y)
        assert not (result.success & (radius > eps)).any()
        assert result.success.sum() > 0.8 * (radius < eps).sum()
    # With every target in turn, the worst case is found exactly.
    broken = torch.zeros_like(own[:, 0])
    for target in range(10):
        rows = y != target
        attack = PGD(eps=eps, step_size=eps / 4, loss="margin", clip=None)
        goals = torch.full((int(rows.sum()),), target)
        broken[rows] |= attack.run(net, x[rows], target=goals).success
    assert (broken != (radius < eps)).sum() <= 1
