"""The fused engine as a function: a DenseNet that is cheap to attack.

No weight gradients and no autograd inside: a forward keeps what its backwards need, which is a
twentieth of what autograd keeps, in memory that is used again. Every image's numbers are the same
bits in any batch and with any number of threads.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..models.networks import DenseNet
from ..ops.densenet_op import DenseNetGpuKernel, DenseNetKernel
from ..utils.modules import evaluating
from .backends import Backend
from .folding import fold, shape_of, unsuited
from .watch import Watch

# Pixels that fill a thread's register tiles: smaller images share them.
_PIXELS = 512
# Images of the comparison with autograd, and the relative differences that it allows: of outputs,
# and of gradients, where every ReLU that rounding closes or opens counts.
_COMPARED = 8
_TOLERANCE = {"fp32": (1e-3, 2e-2), "tf32": (1e-2, 0.2), "bf16": (0.1, 0.6)}

# Bytes that the fused engine keeps of a call: on a CPU more gains nothing, and less little, down to
# what fits the cache; a GPU wants large batches.
KEPT = {"cpu": 64 << 20, "cuda": 4 << 30}


Kernel = DenseNetKernel | DenseNetGpuKernel


class FusedDenseNet:
    """Maps what `net` maps, in eval mode, without gradients for its parameters.

    The first call for a size of images is compared with autograd. Weights are those of the last
    :meth:`refresh`.

    Args:
        net: a DenseNet for which :func:`unsuited` has nothing to say.
        precision: ``"fp32"``, or ``"bf16"`` (on a GPU ``"tf32"``, too) for operands of that kind in
            the layers of the blocks; sums, stem, transitions and the linear layer stay float32, and
            so does on a CPU what is kept.

    Raises:
        ValueError: `net` or this machine does not suit.
        RuntimeError: at the first call, outputs or gradients differ from autograd's.
    """

    def __init__(self, net: nn.Module, precision: str = "fp32") -> None:
        reason = unsuited(net, precision)
        if reason:
            raise ValueError(f"net must suit the fused engine, got {reason}")
        assert isinstance(net, DenseNet)
        self.precision = precision
        self._net = weakref.ref(net)
        self._watch: Watch | None = None
        self._folded: list[Tensor] = []
        self._packed: Tensor | None = None
        self._kernels: dict[tuple[int, ...], Kernel] = {}
        self._compared: set[tuple[int, int]] = set()
        self._free: list[Tensor] = []

    @property
    def net(self) -> DenseNet:
        """The network as it was given; whoever made this keeps it."""
        net = self._net()
        assert net is not None
        return net

    def refresh(self) -> None:
        """Fold and pack the weights anew if they have changed.

        Raises:
            ValueError: `net` has been changed and does not suit any more.
        """
        if self._watch and self._watch.same_structure() and self._watch.same_weights():
            return
        if reason := unsuited(self.net, self.precision):
            raise ValueError(f"net must still suit the fused engine, got {reason}")
        with torch.no_grad():
            self._folded = fold(self.net)
        self._packed, self._watch = None, Watch(self.net)

    def __call__(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to pre-activations (N, d), both float32."""
        self.kernel(x)  # looks at their shape
        if self._watch is None:
            self.refresh()
        size = (x.shape[2], x.shape[3])
        # Nothing is learned from NaN: autograd's gradient at it is a convention.
        if size not in self._compared and len(x) and x.isfinite().all():
            with torch.autocast(x.device.type, enabled=False):
                self._compare(x.detach()[torch.arange(_COMPARED, device=x.device) % len(x)])
            self._compared.add(size)
        out: Tensor = _Pass.apply(x, self)
        return out

    def rows(self, x: Tensor, memory: int) -> int:
        """Return how many images like those of x fit into `memory` bytes of kept state."""
        kernel = self.kernel(x)
        while kernel.images > 1 and 4 * kernel.state(kernel.images) > memory:
            kernel = self.kernel(x[: kernel.images // 2])
        return max(1, memory // (4 * kernel.state(kernel.images))) * kernel.images

    def kernel(self, x: Tensor) -> Kernel:
        """Return the kernel for images like x (N, C, H, W).

        Raises:
            ValueError: x has another shape, or is too small for the network.
            TypeError: x is not float32.
        """
        if x.dtype is not torch.float32:
            dtype = str(x.dtype).removeprefix("torch.")
            raise TypeError(f"images must be float32 like the network, got {dtype}")
        channels = self.net.arguments["in_channels"]
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(
                f"images must have the shape (N, {channels}, H, W), got {tuple(x.shape)}"
            )
        height, width = x.shape[2:]
        images = 1
        if x.device.type == "cpu":
            share = -(-len(x) // torch.get_num_threads())
            while 2 * images * height * width <= _PIXELS and 2 * images <= share:
                images *= 2
        key = height, width, images
        if key not in self._kernels:
            shape = shape_of(self.net)
            self._kernels[key] = (
                DenseNetGpuKernel(shape, height, width, self.precision)
                if x.device.type == "cuda"
                else DenseNetKernel(shape, *key, half=self.precision == "bf16")
            )
        return self._kernels[key]

    def weights(self, kernel: Kernel) -> Tensor:
        """Return the weights as they were at the last :meth:`refresh`, packed."""
        if self._packed is None:
            self._packed = kernel.pack(self._folded).to(self.net.stem.weight.device)
        return self._packed

    def _compare(self, x: Tensor) -> None:
        """Raise RuntimeError unless this is what autograd gives."""
        generator = torch.Generator().manual_seed(0)
        dz = torch.randn(len(x), self.net.linear.out_features, generator=generator).to(x.device)
        both = []
        for net in (self.net, lambda x: _Pass.apply(x, self)):
            with evaluating(self.net), torch.inference_mode(False), torch.enable_grad():
                # Cloned in here: a tensor of inference mode cannot take part in autograd.
                leaf = x.clone().requires_grad_()
                z = net(leaf)
            both.append((z.detach(), torch.autograd.grad(z, leaf, dz)[0]))
        for what, limit, right, ours in zip(
            ("outputs", "gradients"), _TOLERANCE[self.precision], *both, strict=True
        ):
            gap = float((ours - right).norm() / right.norm().clamp_min(1e-30))
            if not gap <= limit and right.isfinite().all():
                raise RuntimeError(
                    f"the fused engine's {what} must be autograd's within {limit:g} of their norm, "
                    f"got {gap:.3g} on {len(x)} images; please report it, and use "
                    'engine.prepare(model, backend="autograd") until then'
                )

    def borrow(self, size: int, device: torch.device) -> "Loan":
        """Return memory of at least `size` float32 numbers; it comes back when it is let go."""
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return Loan(size, [], device)  # the graph's own
        if self._free and self._free[0].device != device:
            self._free = []
        return Loan(size, self._free, device)


class Loan:
    """A tensor that goes back to the `free` ones when nobody holds it any more."""

    def __init__(self, size: int, free: list[Tensor], device: torch.device) -> None:
        self._free = free
        large = [i for i, tensor in enumerate(free) if tensor.numel() >= size]
        if not large and free:
            free.pop()  # what has become too small
        self.tensor = free.pop(large[-1]) if large else torch.empty(size, device=device)

    def __del__(self) -> None:
        self._free.append(self.tensor)


class Fused(Backend):
    """The fused engine, for DenseNets."""

    name = "fused"

    def __init__(self, net: nn.Module, *rest: Any) -> None:
        super().__init__(net, *rest)
        self._engine = FusedDenseNet(net, self.precision)

    def __call__(self, x: Tensor) -> Tensor:
        """Map images to pre-activations."""
        z: Tensor = self._engine(x)
        return z

    def rows(self, x: Tensor) -> int:
        """Return how many images go through in one call."""
        return self._engine.rows(x, KEPT[x.device.type] if self.memory is None else self.memory)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Notice weights that have changed; they do not change while it is open."""
        self._engine.refresh()
        # Autograd, with which a first call is compared, must not round more than the engine does.
        with super().opened():
            yield


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, engine: FusedDenseNet) -> Tensor:
        x = x.contiguous()
        kernel = engine.kernel(x)
        ctx.save_for_backward(x)
        ctx.engine, ctx.kernel, ctx.weights = engine, kernel, engine.weights(kernel)
        scratch = engine.borrow(kernel.scratch(len(x)), x.device)
        state = None
        if ctx.needs_input_grad[0]:
            ctx.state = engine.borrow(kernel.state(len(x)), x.device)
            state = ctx.state.tensor
        return kernel.forward(ctx.weights, x, state, scratch.tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        scratch = ctx.engine.borrow(ctx.kernel.scratch(len(x)), x.device)
        grad = ctx.kernel.backward(
            ctx.weights, dz.contiguous(), x, ctx.state.tensor, scratch.tensor
        )
        return grad, None
