"""What images say beside a Lipschitz bound: Jacobian norms, certified radii, the inequality."""

import math

import pytest
import torch
from nets import jacobian, norm, random_net
from torch import nn

import fastrobust as fr
from fastrobust.spectral import local
from fastrobust.spectral.bounds import lipschitz
from fastrobust.spectral.local import Inequality, jacobian_norms, loss_bound

ROUNDING = 1e-9  # of float64 sums


@pytest.mark.parametrize("few", [0, 3])
def test_norms_of_jacobians_are_those_of_dense_ones(few, monkeypatch):
    monkeypatch.setattr(local, "FEW", few)
    model = random_net(layers=(1, 1), growth=4, num_outputs=3)
    x = torch.rand(5, 1, 8, 8)
    true = torch.tensor([norm(jacobian(model, image)) for image in x], dtype=torch.float64)
    found = jacobian_norms(model, x, steps=200)
    assert found.dtype == torch.float64
    assert torch.allclose(found, true, rtol=1e-6)
    early = jacobian_norms(model, x, steps=1)
    assert (early <= true * (1 + ROUNDING)).all()
    assert torch.allclose(early, true, rtol=1e-6) == (few == 3)  # at once, or by iteration
    assert len(jacobian_norms(model, x[:0])) == 0
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    flat[1].weight.data.zero_()
    assert (jacobian_norms(flat, x) == 0).all()


def test_the_radius_is_exact_where_two_scores_oppose():
    w = torch.randn(1, 9)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    net[1].weight.data = torch.cat([w, -w])
    x, y = torch.rand(6, 1, 3, 3), torch.tensor([0, 1] * 3)
    images = lipschitz(net, 3, x, y).images
    scores = net(x).detach().double()
    signed = scores.gather(1, y[:, None])[:, 0] - scores.gather(1, 1 - y[:, None])[:, 0]
    assert torch.allclose(images.margin, signed, atol=1e-5)
    right = signed.clamp_min(0) / (2 * w.double().norm())  # the distance to the plane between them
    assert torch.allclose(images.radius, right, atol=1e-6)
    assert (images.radius == 0).any() and (images.radius > 0).any()
    own = lipschitz(net, 3, x).images
    assert torch.allclose(own.margin, signed.abs(), atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        fr.heads.Softmax("ce"),
        fr.heads.Softmax("mse"),
        fr.heads.Codeword(fr.Codebook.random(4, 6, "key")),
    ],
)
def test_lambda_bounds_the_gradient_of_the_loss(head):
    width = 6 if head.vectors is not None else 4
    z = (torch.randn(4000, width) * torch.logspace(-1, 1, 4000)[:, None]).requires_grad_()
    head.loss(z, torch.arange(4000) % 4).sum().backward()
    assert z.grad.norm(dim=1).max() <= loss_bound(head, width)


def test_lambda_is_reached():
    z = torch.tensor([[30.0, -30.0]], requires_grad=True)
    fr.heads.Softmax("ce").loss(z, torch.tensor([1])).sum().backward()
    assert float(z.grad.norm()) == pytest.approx(loss_bound(fr.heads.Softmax("ce"), 2))
    z = torch.full((1, 5), math.atanh(1 / 3), requires_grad=True)
    fr.ops.tanh_mse(z, -torch.ones(1, 5)).sum().backward()
    codeword = fr.heads.Codeword(fr.Codebook.random(4, 5, "key"))
    assert float(z.grad.norm()) == pytest.approx(loss_bound(codeword, 5))
    assert loss_bound(fr.heads.Linear(), 5) == math.inf


def test_the_inequality_by_hand():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    net[1].weight.data = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 0, 0])
    clean, moved = lipschitz(net, 2, x, y, eps=(0.0, 0.2)).inequalities
    assert clean.loss == clean.adversarial_loss == pytest.approx(math.log1p(math.exp(-1)))
    assert moved.adversarial_loss == pytest.approx(math.log1p(math.exp(-0.6)), rel=5e-3)
    # lambda Lambda eps = sqrt(2) sqrt(2) 0.2
    assert math.exp(moved.log_right) == pytest.approx(clean.loss + 0.4)
    assert clean.holds and moved.holds
    assert not Inequality(0.1, 0.1, 0.3, 0.0, 0.0).holds
    assert Inequality(0.1, 0.1, 0.3, math.inf, 0.0).holds
