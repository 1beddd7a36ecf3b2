"""DenseNets to try engines on: random ones that no norm makes harmless, and trained ones."""

import copy
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import nn

import fastrobust as fr
from fastrobust import data
from fastrobust.train import recipes, training


def random_net(seed=0, size=(8, 8), **arguments):
    """Norms have scales of both signs, shifts, and the statistics of random images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = fr.models.densenet(**{"in_channels": 1, **arguments})
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.weight.data.uniform_(0.5, 1.5).mul_(torch.randn_like(norm.weight).sign())
            norm.bias.data.normal_(0, 0.5)
            norm.momentum = 1.0
        with torch.no_grad():
            net.train()(torch.rand(16, net.arguments["in_channels"], *size))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_var.mul_(torch.rand_like(norm.running_var) + 0.5)
        net.linear.bias.data.normal_()
    return net.eval()


def by_autograd(net, x, dz, dtype=torch.float64):
    """Outputs and the input gradient of the module itself, in another precision."""
    leaf = x.detach().to(dtype).requires_grad_()
    z = copy.deepcopy(net).to(dtype)(leaf)
    return z.detach(), torch.autograd.grad(z, leaf, dz.to(dtype))[0]


def gap(ours, right):
    """Relative difference by the norm."""
    return float((ours.double() - right.double()).norm() / right.double().norm().clamp_min(1e-300))


def same_signs(ours, right):
    """Share of entries whose signs agree."""
    return float((ours.sign() == right.sign()).double().mean())


@cache
def digits():
    return data.load("digits")


@cache
def trained(model_name="O:SOFTMAX:CE"):
    """Train for three seconds: 0.97 or more of the test digits are right."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = recipes.default_config("digits", model_name, epochs=8)
        model = training.train(digits(), model_name, config, Path(folder) / "model.safetensors")
    torch.set_num_threads(threads)
    return model


class Scaled(nn.Module):
    """A network whose outputs are larger."""

    def __init__(self, net, factor):
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        return self.net(x) * self.factor


def jacobian(model, x):
    """Dense Jacobian (outputs, pixels), float64, at one image (C, H, W)."""
    exact = copy.deepcopy(model).double().eval()
    found = torch.autograd.functional.jacobian(lambda v: exact(v[None]).flatten(), x.double())
    return found.reshape(-1, x.numel())


def norm(matrix):
    return float(torch.linalg.matrix_norm(matrix.detach(), 2))
