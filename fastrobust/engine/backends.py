"""Ways to run a network so that its gradient by the input comes cheap, behind one call.

An :class:`~fastrobust.engine.Oracle` calls a backend as it would call the network. The fused engine
is a third backend, in ``fused.py``.
"""

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

# Pixels per call under autograd where no memory is named: 256 CIFAR-10 images, whose saved
# activations in a DenseNet-BC 100-12 take 9 GB in float32, and enough of them to fill a GPU.
CHUNK_PIXELS = 256 * 3 * 32 * 32


class Backend:
    """The network itself, differentiated by autograd.

    Args:
        net: what maps normalised images (N, ...) to pre-activations (N, d).
        precision: of its matrix products.
        memory: bytes that a call may keep for the way back; None for a default.
        why: in words, why it was chosen.

    Attributes:
        name: ``"autograd"``, ``"compile"`` or ``"fused"``.
    """

    name: ClassVar[str] = "autograd"

    def __init__(
        self, net: nn.Module, precision: str = "fp32", memory: int | None = None, why: str = ""
    ) -> None:
        self.precision, self.memory, self.why = precision, memory, why
        self._net = weakref.ref(net)  # a prepared model keeps it, and may die with it
        self._per_image: dict[torch.Size, int] = {}

    @property
    def net(self) -> nn.Module:
        """The network as it was given."""
        net = self._net()
        assert net is not None
        return net

    def __call__(self, x: Tensor) -> Tensor:
        """Map images to pre-activations, with a graph back to the images where they ask for it."""
        z: Tensor = self.net(x)
        return z

    def rows(self, x: Tensor) -> int:
        """Return how many images like those of x (N, ...) go through in one call."""
        if self.memory is None:
            return max(1, CHUNK_PIXELS // max(1, x[0].numel()))
        size = x.shape[1:]
        if size not in self._per_image:
            self._per_image[size] = _kept(self, x[:1])
        return max(1, self.memory // max(1, self._per_image[size]))

    def holding(self) -> AbstractContextManager[None]:
        """Let its precision hold, whatever holds around it."""
        if not torch.cuda.is_available():
            return nullcontext()
        return _tensor_cores(self.precision == "tf32")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While it is open the weights do not change, and its precision holds."""
        with self.holding():
            yield


class Compiled(Backend):
    """The network through ``torch.compile``: the first call for a batch shape takes a minute."""

    name = "compile"

    def __init__(self, net: nn.Module, *rest: Any) -> None:
        super().__init__(net, *rest)
        self._compiled = torch.compile(net)

    def __call__(self, x: Tensor) -> Tensor:
        """Map images to pre-activations."""
        z: Tensor = self._compiled(x)
        return z


def _kept(backend: Backend, x: Tensor) -> int:
    """Bytes that autograd keeps for the way back of the images x, the weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in backend.net.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        z = backend(x.detach().requires_grad_())
    return sum(kept.values()) + z.nbytes


@contextmanager
def _tensor_cores(allowed: bool) -> Iterator[None]:
    """Whether float32 products on a GPU may round their operands to TF32."""
    switches: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    try:
        yield
    finally:
        for switch, flag in zip(switches, before, strict=True):
            switch.allow_tf32 = flag
