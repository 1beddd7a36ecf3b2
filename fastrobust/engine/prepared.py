"""Models that are ready to be attacked: a classifier and the ways to run its network."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..models.classifier import Classifier, as_classifier
from ..models.heads import Head
from ..utils.modules import evaluating
from .backends import Backend, Compiled
from .folding import unsuited
from .fused import Fused

NAMES = "auto", "fused", "autograd", "compile"
PRECISIONS = "fp32", "tf32", "bf16"

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
        backend = self.search
        return prepare, (plain, backend.precision, backend.memory, backend.name, self.graph)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While it is open the weights do not change; each backend notices those that have."""
        with ExitStack() as stack:
            for backend in dict.fromkeys((self.exact, self.search)):  # in float32 the same one
                stack.enter_context(backend.opened())
            yield

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


def choose(
    net: nn.Module, name: str = "auto", precision: str = "fp32", memory: int | None = None
) -> Backend:
    """Return the backend that suits a network; but for "compile", the same one each time.

    Args:
        net: what is to be run.
        name: ``"auto"`` for the fused engine where it suits, else autograd; or one by name. On a
            GPU, where the engine compiles but has not been run yet, "auto" takes it for bf16 only.
        precision: ``"fp32"``, ``"tf32"`` (NVIDIA's 19 bits, on a GPU) or ``"bf16"``.
        memory: bytes that a call may keep for the way back, or None for a default.

    Raises:
        ValueError: a word is unknown, `memory` is not positive, or `net` does not suit.
    """
    for what, word, words in (("backend", name, NAMES), ("precision", precision, PRECISIONS)):
        if word not in words:
            raise ValueError(f"{what} must be {' | '.join(words)}, got {word!r}")
    if memory is not None and memory <= 0:
        raise ValueError(f"memory must be a positive number of bytes, got {memory}")
    reason = unsuited(net, precision)
    if name == "fused" and reason:
        raise ValueError(f"the fused engine must have a network that suits it, got {reason}")
    device = next((p.device.type for p in net.parameters()), "cpu")
    if name == "auto" and device == "cuda" and precision != "bf16" and reason is None:
        reason = 'on a GPU, where it must be asked for: backend="fused"'
    fused = name in ("auto", "fused") and reason is None
    if precision == "bf16" and not fused:
        # Logits in bfloat16 make a model look more robust than it is.
        raise ValueError(
            "bf16 must have the fused engine, which keeps the last layer in float32, got "
            + (reason or f"backend {name!r}")
        )
    if precision == "tf32" and device != "cuda":
        raise ValueError("tf32 must have a network on a GPU, got one on the CPU")
    if name == "compile":  # holds the network, and would keep it alive from here
        return Compiled(net, precision, memory, "asked for")
    kind = Fused if fused else Backend
    known = _CHOSEN.setdefault(net, {})
    key = kind.name, precision, memory, name
    if key not in known:
        why = "a DenseNet of fastrobust.models" if fused else f"not the fused engine: {reason}"
        known[key] = kind(net, precision, memory, why if name == "auto" else "asked for")
    return known[key]


_CHOSEN: weakref.WeakKeyDictionary[nn.Module, dict[Any, Backend]] = weakref.WeakKeyDictionary()
