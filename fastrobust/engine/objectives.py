"""What an attack climbs: a loss of pre-activations, its gradient by them, and the decision.

An attack looks at a classifier in one of two views. In *class view* it sees the class scores, the
largest of which decides. In *units view* it sees the output units u, beside a label vector of the
same length, and takes the largest unit for the decision: what the paper's attacks did to codewords
(cleverhans v2.1.0 knows no other outputs), whatever the nearest codeword says.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.heads import TEMPERATURE_PER_UNIT, Head, Surrogate, class_scores, tanh_units
from ..ops.head_op import launch_head
from . import score_losses

Loss = str | Callable[[Tensor, Tensor], Tensor]

# What a sign attack may climb; "units-ce" is what the paper's published code left inside BIM.
LOSSES = ("ce", "train", "margin", "dlr", "units-ce")
# Training loss to the target vector divided by its sum: what cleverhans' MIM does to a codeword.
TRAIN_BY_SUM = "train/sum"
# The hinges of Carlini and Wagner without their max: on units, and on distances to target vectors.
# A softmax head is measured at its logits, under "/p" at its probabilities.
UNITS_MARGIN = "units-margin"
DISTANCES = ("distance", "squared", "distance/p", "squared/p")

_UNIT_LOSSES = ("units-ce", UNITS_MARGIN)
_COORDINATE = (
    1e4  # what cleverhans takes off the label's own coordinate before it looks for another
)


def reads_units(loss: Loss) -> bool:
    """Whether a loss compares output units with a label vector."""
    return loss in _UNIT_LOSSES


def loss_and_decision(
    head: Head,
    z: Tensor,
    y: Tensor,
    loss: Loss,
    label: Tensor | None = None,
    rival: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a loss that is low where z is decided y.

    Args:
        head: what z means.
        z: (N, d) pre-activations, detached.
        y: (N,) int64 labels or targets.
        loss: a name of this module, or a callable (scores (N, K), y) -> (N,).
        label: (N, d) label vectors, for the losses on units.
        rival: (N,) int64 the class to be decided instead of y, for ``"ce"``, ``"margin"`` and
            ``"dlr"``; otherwise whichever is nearest.

    Returns:
        The loss (N,), its gradient by z (N, d) and the decision (N,).

    Raises:
        ValueError: a callable does not return one differentiable number per row.
    """
    if not isinstance(loss, str):
        value, dz = _differentiate(loss, head.scores, z, y)
        return value, dz, head.decide(z)
    if rival is not None or (isinstance(head, Surrogate) and loss in score_losses.ON_SCORES):
        # The kernel knows neither: there are few such rows, and autograd through a head is cheap.
        on_scores = score_losses.on_scores(loss, rival)
        value, dz = _differentiate(on_scores, partial(_scores, head), z, y)
        return value, dz, head.decide(z)
    if label is not None and reads_units(loss):
        value, dz = _on_units(head, z, label, loss)
        return value, dz, head.decide(z)
    vectors = None if head.vectors is None else head.vectors.to(z.dtype)
    if loss in DISTANCES:
        name, _, where = loss.partition("/")
        logits = head.activation == "softmax" and not where
        activation = "none" if logits else head.activation
        value, dz, decision, _ = launch_head(z, vectors, y, activation, name)
        return value, dz, decision
    name = head.training_loss if loss in ("train", TRAIN_BY_SUM) else loss
    if loss == TRAIN_BY_SUM and vectors is not None:
        scaled = vectors / vectors.sum(1, keepdim=True)
        value, dz, *_ = launch_head(z, scaled, y, head.activation, name)
        return value, dz, head.decide(z)
    value, dz, decision, _ = launch_head(z, vectors, y, head.activation, name)
    return value, dz, decision


def label_vectors(head: Head, z: Tensor, y: Tensor, sign: Tensor) -> Tensor:
    """Return the label vector (N, d) that the paper's attacks had beside the units.

    Targeted (sign < 0): the target vector of class y. Untargeted: no label was given, so cleverhans
    guessed the one-hot vector of the largest unit at the clean image, whose pre-activations are z;
    on one-hot targets that is the label's own.
    """
    if head.vectors is None:
        return F.one_hot(y, z.shape[1]).to(z.dtype)
    guess = F.one_hot(head.units(z).argmax(1), z.shape[1]).to(z.dtype)
    return torch.where((sign < 0)[:, None], head.vectors.to(z.dtype)[y], guess)


def largest_unit(head: Head, z: Tensor, label: Tensor, bonus: Tensor | float = 0.0) -> Tensor:
    """Whether the largest unit (N,) is the label vector's own, once `bonus` is added to that one.

    The literal success test of cleverhans v2.1.0 (attacks_tf.py, CarliniWagnerL2, compare).
    """
    unit = label.argmax(1)
    units = outputs(head, z)
    lifted = units + bonus * F.one_hot(unit, units.shape[1]).to(units.dtype)
    return lifted.argmax(1) == unit


def leading(head: Head, z: Tensor, count: int, view: str) -> tuple[Tensor, Tensor]:
    """Say how far the outputs that follow the highest one are behind it.

    Args:
        head: what z means.
        z: (N, d) pre-activations, detached.
        count: how many outputs to look at, the highest included; at most all are.
        view: ``"class"`` for the class scores, ``"units"`` for :func:`outputs`.

    Returns:
        The gaps (N, count - 1), at most zero, highest output first (the lowest index of equals),
        and their gradients by z (N, count - 1, d).
    """
    seen = head.scores(z) if view == "class" else outputs(head, z)
    ordered, order = seen.sort(dim=1, descending=True, stable=True)
    gaps = ordered[:, 1:count] - ordered[:, :1]
    chosen = F.one_hot(order[:, :count], seen.shape[1]).to(z.dtype)
    behind = chosen[:, 1:] - chosen[:, :1]
    if seen is z:
        return gaps, behind
    if view == "class" and head.vectors is not None:
        length = head.vectors.shape[1]
        behind = behind @ (head.vectors.to(z.dtype) / (length * TEMPERATURE_PER_UNIT))
    return gaps, _by_z(head, z, behind)


def resembles(
    head: Head,
    z: Tensor,
    y: Tensor,
    loss: Loss,
    label: Tensor | None,
    decision: Tensor | None = None,
) -> Tensor:
    """Return whether the largest of the outputs that a loss compares belongs to class y.

    Args:
        head: what z means.
        z: (N, d) pre-activations.
        y: (N,) int64 class.
        loss: the loss whose outputs are looked at: class scores, units, or a label vector's.
        label: (N, d) label vectors, for the losses on units.
        decision: (N,) int64 decision at z, where it is known.
    """
    if label is not None and reads_units(loss):
        return largest_unit(head, z, label)
    if loss not in ("train", TRAIN_BY_SUM) or head.vectors is None:
        return (head.decide(z) if decision is None else decision) == y
    return head.units(z).argmax(1) == head.vectors.argmax(1)[y]


def outputs(head: Head, z: Tensor) -> Tensor:
    """Return what the paper's attacks took for the outputs (N, d): they call them logits.

    Tanh units, the probabilities of a model trained on their squared error, else z itself.
    """
    return head.units(z) if head.training_loss == "mse" else z


def _scores(head: Head, z: Tensor) -> Tensor:
    """Class scores (N, K), differentiable without the cancellation in the slope of tanh."""
    if head.activation != "tanh" or head.vectors is None or isinstance(head, Surrogate):
        return head.scores(z)
    return class_scores(tanh_units(z), head.vectors.to(z.dtype))


def _on_units(head: Head, z: Tensor, label: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Value (N,) and gradient (N, d) of a loss on units u beside label vectors (N, d)."""
    u = outputs(head, z)
    if loss == UNITS_MARGIN:
        # real = y.u, other = max_i (1 - y_i) u_i - 10000 y_i, whatever the label vector is.
        other, j = ((1 - label) * u - _COORDINATE * label).max(1)
        value = other - (label * u).sum(1)
        du = -label
        du = du.scatter_add(1, j[:, None], 1 - label.gather(1, j[:, None]))
    else:
        # Cross-entropy of the units as if they were logits; fgm divides labels by their sum.
        share = label / label.sum(1, keepdim=True)
        value = -(share * u.log_softmax(1)).sum(1)
        du = u.softmax(1) - share
    return value, du if u is z else _by_z(head, z, du[:, None])[:, 0]


def _by_z(head: Head, z: Tensor, du: Tensor) -> Tensor:
    """Gradients by z (N, d) of what has the gradients `du` (N, m, d) by its units: (N, m, d)."""
    if head.activation == "tanh":
        # 1 - tanh(z)^2 without its cancellation, which makes it zero from |z| = 9 on in float32.
        e = (-2 * z.abs()).exp()
        return du * (4 * e / (1 + e).square())[:, None]
    if head.activation == "softmax":
        p = z.softmax(1)[:, None]
        return p * (du - (p * du).sum(2, keepdim=True))
    return du


def _differentiate(
    loss: Callable[[Tensor, Tensor], Tensor],
    scores: Callable[[Tensor], Tensor],
    z: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    """Value (N,) of the caller's loss on class scores, and its gradient by z (N, d)."""
    z = z.detach().requires_grad_()
    value = loss(scores(z), y)
    if not isinstance(value, Tensor) or value.shape != y.shape:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"loss must return a tensor of shape ({len(y)},), one per row, got {shape}"
        )
    if not value.requires_grad:
        raise ValueError("loss must be differentiable by the scores, got no graph")
    (dz,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), dz
