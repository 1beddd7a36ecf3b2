"""A whole DenseNet in eval mode, forward and backward to its input: the engine's kernel.

It is handed *folded* weights, a list of tensors in this order, whose batch norms are a scale and a
shift and where the one behind a bottleneck has gone into the convolution before it:

- the stem (init, in_channels, 3, 3);
- for each layer of a block: scale (c,), shift (c,), with a bottleneck its weight (4k, c, 1, 1) and
  bias (4k,), then the weight (k, 4k or c, 3, 3) of the convolution that appends;
- at the end of each block: scale (c,), shift (c,), then, but for the last one, the weight
  (kept, c, 1, 1) of the transition;
- the linear layer (d, c) and its bias (d,).

State lives from a forward to its backwards, scratch for one call. Neither is an operation that
PyTorch could differentiate or trace by itself; :mod:`fastrobust.fused` makes them one.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .extension import kernels

# Outputs of a convolution that a register tile holds, and what a last group is rounded up to.
_GROUP, _LAST = 12, 4
# Outputs, and pairs of inputs, of a matrix unit's tile.
_TILE = 16
# Every tensor begins on a cache line.
_LINE = 16


class DenseNetShape(NamedTuple):
    """What a DenseNet is built of.

    Attributes:
        layers: of each block.
        channels: that each block begins with.
        growth: channels k that a layer appends.
        bottleneck: whether a layer has a 1x1 convolution to 4k channels before its 3x3 one.
        in_channels: of the images.
        outputs: d of the linear layer.
    """

    layers: list[int]
    channels: list[int]
    growth: int
    bottleneck: bool
    in_channels: int
    outputs: int


class DenseNetKernel:
    """The kernel for images of one size, with packed weights.

    Args:
        shape: of the network.
        height, width: of the images.
        images: that a thread takes through the network at once; 1, or more where they are small.
            Results do not depend on it.
        half: bfloat16 operands in the layers of the blocks, with float32 sums.

    Raises:
        ValueError: the images are too small for that many blocks.
    """

    def __init__(
        self, shape: DenseNetShape, height: int, width: int, images: int = 1, half: bool = False
    ) -> None:
        self.shape, self.images, self.half = shape, images, half
        self.plan = kernels.DenseNetPlan(kernels.DenseNetShape(*shape, height, width), images, half)

    def state(self, count: int) -> int:
        """Float32 numbers of state for `count` images."""
        groups: int = -(-count // self.images)
        return groups * int(self.plan.state_size)

    def scratch(self, count: int) -> int:
        """Float32 numbers of working memory for `count` images on PyTorch's threads."""
        threads = min(torch.get_num_threads(), max(1, -(-count // self.images)))
        return threads * int(self.plan.scratch_size + self.plan.state_size)

    def forward(self, weights: Tensor, x: Tensor, state: Tensor | None, scratch: Tensor) -> Tensor:
        """Map images (N, C, H, W), float32, to outputs (N, d); fill the state if there is one."""
        z = x.new_empty(len(x), self.shape.outputs)
        kernels.densenet(self.plan, weights, x, z, state, None, None, scratch)
        return z

    def backward(
        self, weights: Tensor, dz: Tensor, x: Tensor, state: Tensor, scratch: Tensor
    ) -> Tensor:
        """Gradient (N, C, H, W) by the images x of what has the gradient dz (N, d) by outputs."""
        grad = torch.empty_like(x)
        kernels.densenet(self.plan, weights, None, None, state, dz, grad, scratch)
        return grad

    def pack(self, folded: Sequence[Tensor]) -> Tensor:
        """Return the folded weights as the kernel reads them, one float32 tensor."""
        pieces = [F.pad(p, (0, -p.numel() % _LINE)) for p in self._pieces(iter(folded))]
        return torch.cat(pieces)

    def _pieces(self, folded: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield what csrc/densenet/layout.h places, in its order, as flat float32 tensors."""
        layers, channels, growth, bottleneck, _, _ = self.shape

        def plain(count: int) -> Iterator[Tensor]:
            for _ in range(count):
                yield next(folded).float().flatten()

        def convolution(
            half: bool, weight: Tensor, scale: Tensor | None = None
        ) -> Iterator[Tensor]:
            pack = _tiled if half and self.plan.tiles else partial(_packed, half=half)
            yield pack(weight)
            back = weight if scale is None else weight * scale[:, None, None]
            yield pack(back.transpose(0, 1).flip(2, 3))

        # A gradient goes through a convolution and the norm before it in one.
        def normalised(half: bool) -> Iterator[Tensor]:
            scale = next(folded)
            yield scale.float()
            yield from plain(1)
            yield from convolution(half, next(folded), scale)

        yield from convolution(False, next(folded))
        for block, count in enumerate(layers):
            for _ in range(count):
                yield from normalised(self.half)
                if bottleneck:
                    yield from plain(1)
                    yield from convolution(self.half, next(folded))
            if block + 1 < len(layers):
                yield from normalised(half=False)
        yield from plain(2)
        linear = next(folded).float()
        yield linear.t().flatten()
        yield linear.flatten()
        yield from plain(1)


class DenseNetGpuKernel:
    """The same on a GPU, a whole batch at once, with the interface of :class:`DenseNetKernel`.

    What is kept of an image is a number of bytes; buffers are float32 tensors all the same.

    Args:
        shape: of the network.
        height, width: of the images.
        precision: ``"fp32"``, ``"tf32"`` or ``"bf16"``: operands of the layers of the blocks.

    Raises:
        ValueError: the images are too small for that many blocks, or the layers are too wide for a
            block's shared memory.
    """

    images = 1

    def __init__(
        self, shape: DenseNetShape, height: int, width: int, precision: str = "fp32"
    ) -> None:
        self.shape = shape
        self.plan = kernels.DenseNetCudaPlan(
            kernels.DenseNetShape(*shape, height, width), precision
        )

    def state(self, count: int) -> int:
        """Float32 numbers of state for `count` images."""
        return count * int(self.plan.state_size) // 4

    def scratch(self, count: int) -> int:
        """Float32 numbers of working memory for `count` images; a forward alone has state in it."""
        return count * int(self.plan.scratch_size) // 4 + self.state(count)

    def forward(self, weights: Tensor, x: Tensor, state: Tensor | None, scratch: Tensor) -> Tensor:
        """Map images (N, C, H, W), float32, to outputs (N, d); fill the state if there is one."""
        z = x.new_empty(len(x), self.shape.outputs)
        kept_state, rest = self._parts(len(x), state, scratch)
        keep = state is not None
        kernels.densenet_cuda(self.plan, weights, x, z, kept_state, keep, None, None, rest)
        return z

    def backward(
        self, weights: Tensor, dz: Tensor, x: Tensor, state: Tensor, scratch: Tensor
    ) -> Tensor:
        """Gradient (N, C, H, W) by the images x of what has the gradient dz (N, d) by outputs."""
        grad = torch.empty_like(x)
        kept_state, rest = self._parts(len(x), state, scratch)
        kernels.densenet_cuda(self.plan, weights, None, None, kept_state, True, dz, grad, rest)
        return grad

    def pack(self, folded: Sequence[Tensor]) -> Tensor:
        """Return the folded weights as the kernel reads them, bytes on the CPU."""
        flat = torch.cat([part.float().cpu().flatten() for part in folded])
        weights = torch.empty(self.plan.weights_size, dtype=torch.uint8)
        kernels.densenet_cuda_pack(self.plan, flat, weights)
        return weights

    def _parts(self, count: int, state: Tensor | None, scratch: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.state(count)
        kept_state = scratch[:kept] if state is None else state
        return kept_state.view(torch.uint8), scratch[kept:].view(torch.uint8)


has_gpu_kernels = hasattr(kernels, "densenet_cuda")


def _packed(weight: Tensor, half: bool) -> Tensor:
    """Lay a convolution out in groups of outputs: [group][input][tap][output of the group].

    With `half`, two inputs in bfloat16 share a float32's place.
    """
    out, inputs = weight.shape[:2]
    whole = out // _GROUP * _GROUP
    padded = whole + -(-(out - whole) // _LAST) * _LAST
    w = F.pad(weight.float().flatten(2), (0, 0, 0, inputs % 2 if half else 0, 0, padded - out))
    w = _pairs(w) if half else w
    return torch.cat([group.permute(1, 2, 0).flatten() for group in w.split(_GROUP)])


def _tiled(weight: Tensor) -> Tensor:
    """Lay a convolution out in a matrix unit's tiles, bfloat16 in pairs of inputs.

    [16 outputs][row of taps][16 pairs][output of the tile][pair of the tile], with the pairs of a
    row's columns one after the other.
    """
    out, inputs, rows = weight.shape[:3]
    w = F.pad(weight.float().flatten(2), (0, 0, 0, inputs % 2, 0, -out % _TILE))
    w = _pairs(w).unflatten(2, (rows, -1)).permute(0, 2, 3, 1).flatten(2)
    w = F.pad(w, (0, -w.shape[2] % _TILE))
    return w.view(-1, _TILE, rows, w.shape[2] // _TILE, _TILE).permute(0, 2, 3, 1, 4).flatten()


def _pairs(w: Tensor) -> Tensor:
    """Round (out, inputs, taps) to bfloat16, two inputs in a float32's place."""
    pairs = w.bfloat16().unflatten(1, (-1, 2)).transpose(2, 3)
    return pairs.reshape(-1, 2).view(torch.float32).reshape(pairs.shape[:3])


def densenet_ref(folded: Sequence[Tensor], shape: DenseNetShape, x: Tensor) -> Tensor:
    """Compute the outputs (N, d) in plain PyTorch, differentiable and in the dtype of x."""
    parts = iter(folded)

    def take() -> Tensor:
        return next(parts).to(x.dtype)

    def normalised(x: Tensor) -> Tensor:
        scale, shift = take(), take()
        return F.relu(x * scale[:, None, None] + shift[:, None, None])

    x = F.conv2d(x, take(), padding=1)
    for block, count in enumerate(shape.layers):
        for _ in range(count):
            hidden = normalised(x)
            if shape.bottleneck:
                hidden = F.relu(F.conv2d(hidden, take(), take()))
            x = torch.cat([x, F.conv2d(hidden, take(), padding=1)], 1)
        x = normalised(x)
        if block + 1 < len(shape.layers):
            x = F.conv2d(F.avg_pool2d(x, 2), take())
    return F.linear(x.mean((2, 3)), take(), take())
