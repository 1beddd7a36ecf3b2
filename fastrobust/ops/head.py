"""The end of a network in one pass: activation, loss, its gradient, decision and margin."""

import torch
from torch import Tensor

ACTIVATIONS = ("tanh", "softmax", "none")
LOSSES = ("ce", "mse", "margin", "dlr", "cw")


def head(
    z: Tensor, vectors: Tensor | None, y: Tensor, activation: str, loss: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute a loss on pre-activations with its gradient, the decision and the margin."""
    return head_ref(z, vectors, y, activation, loss)


launch_head = head


def tanh_mse(z: Tensor, target: Tensor) -> Tensor:
    """Mean squared error between tanh(z) and a target, per row."""
    return tanh_mse_ref(z, target)


def head_ref(
    z: Tensor, vectors: Tensor | None, y: Tensor, activation: str, loss: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do what :func:`head` does in plain PyTorch."""
    value, scores = _loss_and_scores(z, vectors, y, activation, loss)
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        total = _loss_and_scores(leaf, vectors, y, activation, loss)[0].sum()
        (dz,) = torch.autograd.grad(total, leaf)
    scores = scores.detach()
    return value, dz, scores.argmax(1), _margin(scores, y)


def tanh_mse_ref(z: Tensor, target: Tensor) -> Tensor:
    """Do what :func:`tanh_mse` does in plain PyTorch."""
    return (z.tanh() - target).square().mean(1)


def _loss_and_scores(
    z: Tensor, vectors: Tensor | None, y: Tensor, activation: str, loss: str
) -> tuple[Tensor, Tensor]:
    """Return the (N,) losses and the (N, K) class scores."""
    units = {"tanh": z.tanh, "softmax": lambda: z.softmax(1), "none": lambda: z}[activation]()
    if activation == "softmax" or (activation == "none" and vectors is None):
        scores = z
    elif vectors is None:
        scores = (units - 0.5) * (12 / z.shape[1])
    else:
        scores = units @ vectors.T - vectors.square().sum(1) / 2
        scores = scores * (12 / z.shape[1]) if activation == "tanh" else scores
    if loss == "ce":
        return torch.nn.functional.cross_entropy(scores, y, reduction="none"), scores
    if loss == "mse":
        wanted = torch.eye(z.shape[1]).to(z)[y] if vectors is None else vectors[y]
        return (units - wanted).square().mean(1), scores
    margin = _margin(scores, y)
    if loss == "margin":
        return -margin, scores
    if loss == "cw":
        return (-margin).clamp(min=0), scores
    ranked = scores.sort(dim=1, descending=True, stable=True).values
    return -margin / (ranked[:, 0] - ranked[:, 2] + 1e-12), scores


def _margin(scores: Tensor, y: Tensor) -> Tensor:
    """Return score of y minus the best other score; +inf where there is no other class."""
    own = scores.gather(1, y[:, None])[:, 0]
    if scores.shape[1] == 1:
        return torch.where(torch.ones_like(own, dtype=torch.bool), torch.inf, own)
    others = scores.scatter(1, y[:, None], -torch.inf)
    return own - others.gather(1, others.argmax(1, keepdim=True))[:, 0]
