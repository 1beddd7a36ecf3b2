"""Heads: what the last layer of a network means.

A head turns the pre-activation z (N, d) of the last linear layer into output units u = a(z), class
scores whose argmax is the decision, and the training loss. The three of the paper (section 4.2,
arXiv 1812.00181) are ``Softmax("ce")``, ``Softmax("mse")`` and ``Codeword(book)``.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.head_op import head, tanh_mse
from .codebook import Codebook

# Scores of a Codeword head are divided by d / 12: at a codeword of U[-1, 1)^d the gap to the next
# class is about d / 3, so cross-entropy on the scores is neither flat nor saturated.
TEMPERATURE_PER_UNIT = 1 / 12


class Head(nn.Module):
    """Base of the heads; use one of its subclasses.

    Attributes:
        activation: ``"softmax"``, ``"tanh"`` or ``"none"``, as in :func:`fastrobust.ops.head`.
        training_loss: ``"ce"`` or ``"mse"``.
        vectors: (K, d) target vectors, or None for one-hot targets (then K = d).
    """

    activation: str
    training_loss: str
    vectors: Tensor | None

    def __init__(self, activation: str, training_loss: str, vectors: Tensor | None) -> None:
        super().__init__()
        self.activation = activation
        self.training_loss = training_loss
        self.register_buffer("vectors", vectors)

    def num_classes(self, width: int) -> int:
        """Number of classes K of a network with `width` outputs; ValueError if it does not fit."""
        if self.vectors is None:
            return width
        classes, length = self.vectors.shape
        if width != length:
            raise ValueError(
                f"the network must have {length} outputs, one per codeword entry, got {width}"
            )
        return classes

    def units(self, z: Tensor) -> Tensor:
        """Output units u (N, d) of pre-activations z (N, d)."""
        if self.activation == "softmax":
            return z.softmax(1)
        return z.tanh() if self.activation == "tanh" else z

    def scores(self, z: Tensor) -> Tensor:
        """Class scores (N, K): the argmax is the decision. Differentiable."""
        if self.vectors is None:
            return z
        return class_scores(self.units(z), self.vectors.to(z.dtype))

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        """Training loss (N,), differentiable, of pre-activations z (N, d) with labels y (N,).

        Cross-entropy of the class scores, or the mean over the d units of the squared error to the
        label's target vector (Keras' "mse", which averages over the last axis).
        """
        if self.training_loss == "ce":
            return F.cross_entropy(self.scores(z), y, reduction="none")
        if self.vectors is None:
            return (self.units(z) - F.one_hot(y, z.shape[1]).to(z.dtype)).square().mean(1)
        return tanh_mse(z, self.vectors[y].to(z.dtype))

    def decide(self, z: Tensor) -> Tensor:
        """Decision (N,) int64 of pre-activations z (N, d); ties go to the lowest index."""
        label = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        vectors = None if self.vectors is None else self.vectors.to(z.dtype)
        return head(z.detach(), vectors, label, self.activation, "margin")[2]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Head":
        """Move and cast like any module, but never round the codewords to half precision."""
        before = self.vectors
        super()._apply(fn, recurse)
        after = self.vectors
        if before is not None and after is not None and after.itemsize < before.itemsize:
            self.vectors = before.to(after.device)
        return self


def class_scores(u: Tensor, vectors: Tensor) -> Tensor:
    """Class scores (N, K) of units u (N, d) beside target vectors (K, d).

    Nearest codeword: |u - Y_k|^2 = |u|^2 - 2 (u.Y_k - |Y_k|^2 / 2), the first term common to all.
    """
    temperature = vectors.shape[1] * TEMPERATURE_PER_UNIT
    return (u @ vectors.T - vectors.square().sum(1) / 2) / temperature


def tanh_units(z: Tensor, least_slope: float = 0.0) -> Tensor:
    """Units tanh(z), once differentiable by the slope max(1 - tanh(z)^2, least_slope).

    The slope is computed without the cancellation that makes it zero from |z| = 9 on in float32.
    """
    e = (-2 * z.detach().abs()).exp()
    slope = (4 * e / (1 + e).square()).clamp_min(least_slope)
    # To autograd tanh(z) is constant; the slope comes in by a term that is zero.
    return z.detach().tanh() + slope * (z - z.detach())


class Softmax(Head):
    """Softmax outputs and one-hot targets, trained on cross-entropy or on mean squared error.

    Class scores are the logits z.

    Args:
        loss: ``"ce"`` (O:SOFTMAX:CE) or ``"mse"`` (O:SOFTMAX:MSE).

    Raises:
        ValueError: `loss` is another word.

    Example:
        >>> Softmax("mse").units(torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(self, loss: str = "ce") -> None:
        if loss not in ("ce", "mse"):
            raise ValueError(f'loss must be "ce" or "mse", got {loss!r}')
        super().__init__("softmax", loss, None)


class Codeword(Head):
    """Tanh outputs, codeword targets, mean squared error, nearest-codeword decision (R:TANH:MSE).

    Class scores are (u.Y_k - |Y_k|^2 / 2) / T with T = d / 12: their argmax is the nearest
    codeword, and their differences are those of the squared distances over -2 T.

    Args:
        book: the target vectors.

    Example:
        >>> head = Codeword(Codebook.random(10, 128, key="secret"))
        >>> head.scores(torch.zeros(2, 128)).shape
        torch.Size([2, 10])
    """

    def __init__(self, book: Codebook) -> None:
        if not isinstance(book, Codebook):
            raise TypeError(f"book must be a Codebook, got {type(book).__name__}")
        super().__init__("tanh", "mse", book.vectors.clone())


class Surrogate(Head):
    """Another head for attacks to climb; decisions, units and training loss are the first one's.

    Where tanh saturates or a softmax is flat the gradients of a classifier vanish while its
    decisions still change: an attack that looks at smoother scores gets through (Tramer et al.,
    arXiv 2002.08347). Losses on class scores (``"ce"``, ``"margin"``, ``"dlr"``, callables) see the
    scores below; success is always decided by the head itself.

    Args:
        head: whose decisions count.
        tanh: ``"exact"``; ``"bypass"``: the backward pass takes max(1 - u^2, gamma) for the slope
            of tanh; ``"skip"``: scores are computed of z in the place of u. Heads without tanh have
            the first alone.
        gamma: least slope under ``"bypass"``.
        temperature: scores are divided by it.

    Raises:
        TypeError: `head` is none, or a surrogate.
        ValueError: an unknown word, one that does not suit the head, a number that is not positive.

    Example:
        >>> book = Codebook.one_hot(3)
        >>> z = torch.full((1, 3), 20.0, requires_grad=True)
        >>> heads = Codeword(book), Surrogate(Codeword(book), tanh="bypass")
        >>> tops = [head.scores(z)[0, 0] for head in heads]
        >>> [round(float(torch.autograd.grad(top, z)[0][0, 0]), 3) for top in tops]
        [0.0, 0.4]
    """

    def __init__(
        self, head: Head, tanh: str = "exact", gamma: float = 0.1, temperature: float = 1.0
    ) -> None:
        if not isinstance(head, Head) or isinstance(head, Surrogate):
            raise TypeError(f"head must be one of a classifier, got {type(head).__name__}")
        words = ("exact", "bypass", "skip") if head.activation == "tanh" else ("exact",)
        if tanh not in words:
            raise ValueError(f"tanh must be one of {words} for this head, got {tanh!r}")
        for name, value in (("gamma", gamma), ("temperature", temperature)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be > 0 and finite, got {value!r}")
        super().__init__(head.activation, head.training_loss, head.vectors)
        self.head = head
        self.tanh, self.gamma, self.temperature = tanh, gamma, temperature

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        """Training loss (N,) of the head itself."""
        return self.head.loss(z, y)

    def scores(self, z: Tensor) -> Tensor:
        """Class scores (N, K) to climb: not always those that decide."""
        if self.vectors is None:
            return z / self.temperature
        least = self.gamma if self.tanh == "bypass" else 0.0
        u = z if self.tanh == "skip" else tanh_units(z, least)
        return class_scores(u, self.vectors.to(z.dtype)) / self.temperature


class Linear(Head):
    """No activation, one-hot targets, mean squared error: the control without a softmax.

    Example:
        >>> Linear().scores(torch.tensor([[0.0, 2.0]]))
        tensor([[0., 2.]])
    """

    def __init__(self) -> None:
        super().__init__("none", "mse", None)
