"""Models that are ready to be attacked: a classifier and the ways to run its network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..models.classifier import Classifier, as_classifier, evaluating
from ..models.heads import Head
from .backends import Backend, choose

Model = nn.Module | Callable[[Tensor], Tensor]


class Prepared(Classifier):
    """A classifier that is run by a backend; made by :func:`prepare`.

    It shares the network, the head and the normalisation with the one that it was made from.

    Attributes:
        search: the backend that it is run by.
        exact: the backend that decides: the same in float32.
        graph: whether an attack's gradients are replayed as CUDA graphs.
    """

    def __init__(
        self, classifier: Classifier, search: Backend, exact: Backend, graph: bool = False
    ) -> None:
        super().__init__(classifier.net, classifier.head)
        self.graph = graph
        self.mean, self.std = classifier.mean, classifier.std
        self.search, self.exact = search, exact

    def under(self, head: Head) -> "Prepared":
        """Return the same network, run the same way, under another head."""
        twin = Classifier(self.net, head)
        twin.mean, twin.std = self.mean, self.std
        return Prepared(twin, self.search, self.exact, self.graph)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by what it was made from: a backend belongs to one network."""
        plain = Classifier(self.net, self.head)
        plain.mean, plain.std = self.mean, self.std
        wish = self.search
        return prepare, (plain, wish.precision, wish.memory, wish.name, self.graph)

    def pre_activation(self, x: Tensor, net: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Pre-activations z (N, d) by the backend, in eval mode whatever the flags."""
        if net is not None:
            return super().pre_activation(x, net)
        with evaluating(self), self.search.opened():
            return super().pre_activation(x, self.search)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Decision (N,) int64 in float32; ties go to the lowest index."""
        with evaluating(self), self.exact.opened():
            return self.head.decide(super().pre_activation(x, self.exact))


def prepare(
    model: Model,
    precision: str = "fp32",
    memory: int | None = None,
    backend: str = "auto",
    graph: bool = False,
) -> Prepared:
    """Return a classifier that answers like `model`, faster, and can be attacked like it.

    Attacks, sweeps and evaluations prepare their models by themselves, with these defaults. Nothing
    is copied: a weight of `model` that changes later is noticed. There are no gradients for
    parameters, and the model is in eval mode while it runs.

    Args:
        model: a Classifier, or any module or callable that returns (N, K) logits.
        precision: of the network's matrix products while an attack searches: ``"fp32"``;
            ``"tf32"``, NVIDIA's 19 bits, on a GPU; ``"bf16"``, bfloat16 operands with float32 sums,
            by the fused engine only, and on a CPU with AVX512-BF16: 1.7 times as fast as float32 on
            a Zen 4, 2.1 with a matrix unit (AMX). The last layer, head, loss and update are always
            float32, and so is the network that decides, in the end and wherever a search believes
            that it has reached its goal (but for DeepFool, which looks at the scores that it
            follows).
        memory: bytes that one call may keep for the way back; a larger batch is cut. By default
            what 256 CIFAR-10 images keep, or, in the fused engine, 64 MiB.
        backend: ``"auto"``: the fused engine for a DenseNet of :mod:`fastrobust.models`, else
            autograd; or ``"fused"``, ``"autograd"``, ``"compile"`` (``torch.compile``, whose first
            call takes a minute).
        graph: on a GPU, replay each attack's gradients as CUDA graphs, one for each shape of a
            batch: faster where batches are small. The network must not wait for the device.

    Raises:
        TypeError: `model` is neither.
        ValueError: a word is unknown, `memory` is not positive, or backend, precision and model do
            not suit each other.

    Example:
        >>> import fastrobust as fr
        >>> net = fr.models.densenet(layers=[2, 2], growth=8, in_channels=1).eval()
        >>> model = prepare(net)
        >>> model.search.name, model(torch.rand(2, 1, 8, 8)).shape
        ('fused', torch.Size([2, 10]))
    """
    classifier = as_classifier(model)
    search = choose(classifier.net, backend, precision, memory)
    exact = search if precision == "fp32" else choose(classifier.net, backend, "fp32", memory)
    if graph and not any(p.is_cuda for p in classifier.parameters()):
        raise ValueError("graph must have a model on a GPU, got one without weights there")
    return Prepared(classifier, search, exact, graph)
