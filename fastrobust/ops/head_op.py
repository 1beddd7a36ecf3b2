"""The end of a network in one pass: activation, loss, its gradient, decision and margin."""

from typing import Any

import torch
from torch import Tensor

from .extension import kernels
from .registry import registered


def launch_head(
    z: Tensor, vectors: Tensor | None, y: Tensor, activation: str, loss: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute a loss on pre-activations with its gradient, the decision and the margin.

    With units u = activation(z), the class scores s are

    - tanh: (u.Y_k - |Y_k|^2 / 2) / T with T = d / 12, whose argmax is the nearest target vector;
    - softmax: z itself (the vectors then serve only as targets of ``mse``);
    - none: z.Y_k - |Y_k|^2 / 2, and z itself for one-hot targets.

    Losses, all low where z is decided y (m = the greatest score of another class):

    - ``ce``: -log softmax(s)_y;
    - ``mse``: mean over j of (u_j - Y_yj)^2;
    - ``margin``: m - s_y;
    - ``dlr``: (m - s_y) / (s_(1) - s_(3) + 1e-12), s_(i) the i-th greatest score (Croce and Hein,
      arXiv 2003.01690);
    - ``cw``: max(m - s_y, 0), with gradient 0 at 0;
    - ``distance``: |u - Y_y| - |u - Y_j|, j the class of m; a distance is guarded as
      sqrt(max(|u - Y|^2, tau)), tau = 1e-12 (float64 1e-24), so that it has a gradient at 0 (the
      loss of Saito and Roy's modified attack, arXiv 1812.00181, 3.3, before its max);
    - ``squared``: |u - Y_y|^2 - |u - Y_j|^2, whose gradient by u is 2 (Y_j - Y_y).

    Each row depends on itself alone, bit for bit, whatever the batch and the number of threads.
    Where several classes share a greatest score, the lowest index counts. NaN counts as the
    greatest score, as in ``torch.argmax``; NaN and infinite z give the NaN and infinities that
    :func:`head_ref` gives. Slopes keep full relative precision where tanh or a probability rounds
    to 1 and the reference's gradient to 0. With K = 1: margin +inf, ``ce`` and ``cw`` 0, ``margin``
    and the distances -inf, with gradient 0. On a GPU a y out of range gives NaN in its row, not an
    error.

    Args:
        z: (N, d) pre-activations, float32 or float64.
        vectors: (K, d) target vectors Y, or None for one-hot targets (K = d).
        y: (N,) int64 class of each row.
        activation: "tanh", "softmax" (needs K = d) or "none".
        loss: "ce", "mse", "margin", "dlr" (needs K >= 3), "cw", "distance" or "squared".

    Returns:
        (N,) loss, differentiable in z but for ``launch_head``; (N, d) its gradient d loss_i / dz_i;
        (N,) int64 decision, the argmax of the scores with the bits of :func:`decode`; (N,) margin
        s_y - m.

    Raises:
        ValueError: a shape, a name or a y is wrong.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> z, y = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0])
        >>> loss, dz, decision, margin = fr.ops.head(z, None, y, "softmax", "margin")
        >>> loss, dz
        (tensor([-1.]), tensor([[-1.,  0.,  1.]]))
    """
    row = z.shape[:1]
    dz = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    value, margin = z.new_empty(row), z.new_empty(row)
    decision = torch.empty(row, dtype=torch.int64, device=z.device)
    kernels.head(z, vectors, y, activation, loss, value, dz, decision, margin)
    return value, dz, decision, margin


def _head_fake(z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    row = z.shape[:1]
    decision = z.new_empty(row, dtype=torch.int64)
    return z.new_empty(row), z.new_empty(z.shape), decision, z.new_empty(row)


head = registered("head", launch_head, fake=_head_fake)


def _head_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    _, dz, decision, margin = output
    ctx.mark_non_differentiable(dz, decision, margin)
    ctx.save_for_backward(dz)


def _head_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple:
    (dz,) = ctx.saved_tensors
    return grad[:, None] * dz, None, None, None, None


torch.library.register_autograd("fastrobust::head", _head_backward, setup_context=_head_setup)


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


def launch_tanh_mse(z: Tensor, target: Tensor) -> Tensor:
    """Mean squared error between tanh(z) and a target, per row.

    NaN gives NaN; an infinite z is the unit +-1 with slope 0. The slope of tanh keeps full relative
    precision where tanh rounds to 1.

    Args:
        z: (N, d) pre-activations, float32 or float64.
        target: (N, d), same dtype and device.

    Returns:
        (N,) mean over d of (tanh(z) - target)^2, differentiable once in both.

    Raises:
        ValueError: a shape is wrong.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> fr.ops.tanh_mse(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor([0.5000])
    """
    loss = z.new_empty(z.shape[:1])
    kernels.tanh_mse(z, target, loss, None, None, None)
    return loss


def _launch_tanh_mse_backward(z: Tensor, target: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    dz = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    dtarget = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    kernels.tanh_mse(z, target, None, grad, dz, dtarget)
    return dz, dtarget


tanh_mse = registered("tanh_mse", launch_tanh_mse, fake=lambda z, *_: z.new_empty(z.shape[:1]))
_tanh_mse_backward = registered(
    "tanh_mse_backward",
    _launch_tanh_mse_backward,
    fake=lambda z, *_: (z.new_empty(z.shape), z.new_empty(z.shape)),
)


def _tanh_mse_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _tanh_mse_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    z, target = ctx.saved_tensors
    return _tanh_mse_backward(z, target, grad)


torch.library.register_autograd(
    "fastrobust::tanh_mse", _tanh_mse_grads, setup_context=_tanh_mse_setup
)


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
    if loss in ("distance", "squared"):
        return _distance(units, vectors, scores, y, loss), scores
    margin = _margin(scores, y)
    if loss == "margin":
        return -margin, scores
    if loss == "cw":
        return (-margin).relu(), scores
    ranked = scores.sort(dim=1, descending=True, stable=True).values
    return -margin / (ranked[:, 0] - ranked[:, 2] + 1e-12), scores


def _distance(
    units: Tensor, vectors: Tensor | None, scores: Tensor, y: Tensor, loss: str
) -> Tensor:
    """Return how much farther the units (N, d) are from class y than from the best other class."""
    targets = torch.eye(units.shape[1]).to(units) if vectors is None else vectors
    if len(targets) == 1:
        return units.sum(1) * 0 - torch.inf
    rival = scores.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
    target_of_y, other = targets[y], targets[rival]
    if loss == "squared":
        return ((other - target_of_y) * (2 * units - target_of_y - other)).sum(1)
    tiny = 1e-12 if units.dtype == torch.float32 else 1e-24
    far, near = ((units - target).square().sum(1) for target in (target_of_y, other))
    return torch.where(far < tiny, tiny, far).sqrt() - torch.where(near < tiny, tiny, near).sqrt()


def _margin(scores: Tensor, y: Tensor) -> Tensor:
    """Return score of y minus the best other score; +inf where there is no other class."""
    score = scores.gather(1, y[:, None])[:, 0]
    if scores.shape[1] == 1:
        no_rival = torch.ones_like(score, dtype=torch.bool)
        return torch.where(no_rival, score.detach() + torch.inf, score)
    others = scores.scatter(1, y[:, None], -torch.inf)
    return score - others.gather(1, others.argmax(1, keepdim=True))[:, 0]
