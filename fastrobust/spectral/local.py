"""Measurements at images: lower bounds of the Lipschitz constant, certified radii, losses."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attacks.sign import PGD
from ..models.classifier import Classifier, as_classifier
from ..models.heads import Head
from ..utils import checks
from ..utils.modules import evaluating

FEW = 32  # up to this many class scores, a gradient of each is cheaper than a power iteration
STEPS = 30  # of the power iteration; each step gives a lower bound
PGD_STEPS = 40


@dataclass(frozen=True, eq=False)
class ImageBounds:
    """Measurements of each image.

    Attributes:
        stretch: (N,) Jacobian norm of the class scores there, from below; float64.
        margin: (N,) score of the decided class less the largest other; with labels that of the
            label, negative where the decision is wrong.
        radius: (N,) certified L2 radius: no smaller change of the image changes its decision; 0
            where it is wrong already.
    """

    stretch: Tensor
    margin: Tensor
    radius: Tensor


@dataclass(frozen=True)
class Inequality:
    """Both sides of E[J_adv] <= E[J] + lambda Lambda eps (arXiv 1812.00181, section 3.4; L2 norm).

    Attributes:
        eps: L2 radius in pixels of [0, 1].
        loss: E[J], the mean training loss over the images.
        adversarial_loss: E[J_adv] as far as PGD finds it: the true one is no less.
        log_lambda: Logarithm of lambda, a Lipschitz bound of J in the pre-activation z.
        log_bound: Logarithm of Lambda, the network's bound to z.
    """

    eps: float
    loss: float
    adversarial_loss: float
    log_lambda: float
    log_bound: float

    @property
    def log_right(self) -> float:
        """Logarithm of the right side."""
        steep = self.log_lambda + self.log_bound + _log(self.eps)
        low, high = sorted((_log(self.loss), steep))
        return high if low == -math.inf else high + math.log1p(math.exp(low - high))

    @property
    def holds(self) -> bool:
        """Whether the measured left side is no larger than the right."""
        return _log(self.adversarial_loss) <= self.log_right


def measure_images(model: nn.Module, x: Tensor, y: Tensor | None, log_bound: float) -> ImageBounds:
    """Return measurements at images x (N, C, H, W), given the logarithm of a bound of the scores.

    Two scores move apart by sqrt(2) L |delta| at most, so that no |delta| below
    margin / (sqrt(2) L) changes the decision.
    """
    classifier = as_classifier(model)
    with evaluating(classifier):
        with torch.no_grad():
            scores = copy.deepcopy(classifier).double()(x.double())
        stretch = jacobian_norms(classifier, x)
    if y is not None:
        y = checks.labels(y, len(x), scores.shape[1], x.device)
    label = scores.argmax(1) if y is None else y
    chosen = scores.gather(1, label[:, None])[:, 0]
    others = scores.scatter(1, label[:, None], -math.inf).amax(1)
    margin = chosen - others
    log_radius = margin.clamp_min(0).log() - math.log(2) / 2 - log_bound
    return ImageBounds(stretch, margin, log_radius.exp())


def jacobian_norms(model: nn.Module, x: Tensor, steps: int = STEPS) -> Tensor:
    """Return the Jacobian's largest singular value at each image, from below: (N,) float64.

    The search for the left singular vector u runs in the model's own precision, |J^T u| is measured
    in float64. `model` is in eval mode, so that the rows of a batch do not mix: all go at once.
    """
    if not len(x):
        return x.new_zeros(0, dtype=torch.float64)
    leaf = x.detach().clone().requires_grad_()
    scores = model(leaf)
    few = scores.shape[1] <= FEW
    vector = _by_rows(scores, leaf) if few else _by_power(scores, leaf, steps)
    left = nn.functional.normalize(vector.double(), dim=1)
    exact = x.detach().double().requires_grad_()
    (pulled,) = torch.autograd.grad(copy.deepcopy(model).double()(exact), exact, left)
    return pulled.flatten(1).norm(dim=1)


def _by_rows(scores: Tensor, leaf: Tensor) -> Tensor:
    """Return the left singular vector (N, K) of each whole Jacobian."""
    rows = [
        torch.autograd.grad(score.sum(), leaf, retain_graph=True)[0].flatten(1)
        for score in scores.unbind(1)
    ]
    jacobian = torch.stack(rows, 1)
    return torch.linalg.svd(jacobian, full_matrices=False).U[..., 0]


def _by_power(scores: Tensor, leaf: Tensor, steps: int) -> Tensor:
    """Return J v (N, K) of the last v of a power iteration on J^T J.

    All on one graph: J^T u is linear in u, and its derivative in u along v is J v.
    """
    start = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    moved = start.to(scores)
    dummy = torch.zeros_like(scores, requires_grad=True)
    (pulled,) = torch.autograd.grad(scores, leaf, dummy, create_graph=True)
    for _ in range(steps):
        (direction,) = torch.autograd.grad(scores, leaf, moved, retain_graph=True)
        tiny = torch.finfo(direction.dtype).tiny
        lengths = direction.flatten(1).norm(dim=1).clamp_min(tiny)
        direction = direction / lengths.reshape(-1, *(1,) * (leaf.dim() - 1))
        (moved,) = torch.autograd.grad(pulled, dummy, direction, retain_graph=True)
    return moved


def inequalities(
    model: nn.Module, x: Tensor, y: Tensor, eps: Sequence[float], log_bound: float
) -> tuple[Inequality, ...]:
    """Measure both sides of the paper's inequality at L2 radii `eps`."""
    classifier = as_classifier(model)
    log_lambda = _log(loss_bound(classifier.head, _width(classifier, x)))
    clean = _mean_loss(classifier, x, y)
    sides = []
    for radius in eps:
        worst = clean
        if radius > 0:
            step = 2.5 * radius / PGD_STEPS  # reaches the ball's other side
            attack = PGD(
                eps=radius, step_size=step, steps=PGD_STEPS, norm="l2", loss="train", keep="last"
            )
            worst = max(clean, _mean_loss(classifier, attack(classifier, x, y), y))
        sides.append(Inequality(radius, clean, worst, log_lambda, log_bound))
    return tuple(sides)


def loss_bound(head: Head, width: int) -> float:
    """Return lambda: a Lipschitz bound of a head's training loss in the pre-activation (N, width).

    Cross-entropy of a softmax has the gradient p - e_y, of norm sqrt(2) at most. The mean squared
    error of p has 2/d (p - e_y) through a softmax, of norm 1/2. An entry of the gradient of tanh to
    targets in [-1, 1] is 2/d (u - t)(1 - u^2), at most 2/d 32/27, at |u| = 1/3. Without an
    activation there is no bound.
    """
    if head.training_loss == "ce":
        return math.sqrt(2)
    if head.activation == "softmax":
        return math.sqrt(2) / width
    return 64 / 27 / math.sqrt(width) if head.activation == "tanh" else math.inf


@torch.no_grad()
def _mean_loss(classifier: Classifier, x: Tensor, y: Tensor) -> float:
    with evaluating(classifier):
        z = classifier.pre_activation(x)
    return float(classifier.head.loss(z.double(), y).mean())


@torch.no_grad()
def _width(classifier: Classifier, x: Tensor) -> int:
    with evaluating(classifier):
        return classifier.pre_activation(x[:1]).shape[1]


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
