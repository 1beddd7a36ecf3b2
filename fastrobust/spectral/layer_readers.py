"""How each kind of layer without children reads as links of a chain."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from .chain import Link, Size, Walk

Reader: TypeAlias = Callable[[Walk, str, Any], None]  # of a module at its place in the tree


def _conv(walk: Walk, name: str, conv: Any) -> None:
    if conv.padding_mode not in ("zeros", "circular"):
        raise ValueError(f"{name} must pad with zeros or circularly, got {conv.padding_mode}")
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if isinstance(conv.padding, str):
        around = reach if conv.padding == "same" else [0, 0]
    else:
        around = [2 * p for p in conv.padding]
    wraps = conv.padding_mode == "circular" and around == reach
    if conv.padding_mode == "circular" and not wraps:
        raise ValueError(f"{name} must keep the size to pad circularly, got {conv.padding}")
    link = Link(
        name, "conv", weight=conv.weight.detach().double(), size=walk.size, stride=conv.stride,
        dilation=conv.dilation, groups=conv.groups, wraps=wraps,
    )  # fmt: skip
    walk.weigh(link)
    sides = zip(walk.size, around, reach, conv.stride, strict=True)
    walk.size = _fits(name, [(n + a - r - 1) // s + 1 for n, a, r, s in sides])


def _linear(walk: Walk, name: str, linear: Any) -> None:
    walk.weigh(Link(name, "linear", weight=linear.weight.detach().double()[..., None, None]))


def _norm(walk: Walk, name: str, norm: Any) -> None:
    if norm.running_var is None:
        raise ValueError(f"{name} must have running statistics, got none: its scale is the batch's")
    spread = (norm.running_var.detach().double() + norm.eps).sqrt()
    gain = torch.ones_like(spread) if norm.weight is None else norm.weight.detach().double().abs()
    start = 0
    for writer, count in walk.writers:
        if writer is not None and writer.spread is None and start + count <= len(spread):
            writer.spread = spread[start : start + count]
        start += count
    scale = gain / spread
    walk.rescale(Link(name, "batch norm", norm=float(scale.max())), scale, gain)


def _each(kind: str, constant: float, *, scales: bool = True) -> Reader:
    """Return the reader of what works entry by entry; `scales`: twice in is twice out."""

    def read_it(walk: Walk, name: str, module: Any) -> None:
        walk.closed(name, kind, constant)
        if not scales:
            walk.writers = []  # a batch norm behind it says nothing of the layer before it

    return read_it


def _softmax(walk: Walk, name: str, module: Any) -> None:
    walk.forget_scale()  # it mixes its entries
    walk.writers = []
    walk.closed(name, "softmax", 0.5)


def _average(walk: Walk, name: str, pool: Any) -> None:
    kernel, stride, padding = (_pair(v) for v in (pool.kernel_size, pool.stride, pool.padding))
    plain = kernel == stride and padding == (0, 0) and pool.divisor_override is None
    if not plain or pool.ceil_mode:
        raise ValueError(f"{name} must average windows that do not overlap, got {pool}")
    # Every window is the inner product with a vector of norm 1 / sqrt(entries).
    walk.closed(name, "average pool", 1 / math.sqrt(math.prod(kernel)))
    walk.size = _fits(name, [n // k for n, k in zip(walk.size, kernel, strict=True)])


def _global_average(walk: Walk, name: str, pool: Any) -> None:
    if pool.output_size not in (1, (1, 1)):
        raise ValueError(f"{name} must average over all pixels, got {pool}")
    average_all(walk, name)


def average_all(walk: Walk, name: str) -> None:
    """Add the mean over all pixels."""
    walk.closed(name, "global average", 1 / math.sqrt(math.prod(walk.size)))
    walk.size = (1, 1)


def _largest(walk: Walk, name: str, pool: Any) -> None:
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    kernel, stride, padding, dilation = map(_pair, settings)
    if pool.ceil_mode or pool.return_indices:
        raise ValueError(f"{name} must have neither ceil_mode nor return_indices, got {pool}")
    # A pixel lies in so many windows at most: so often its change can count.
    times = [
        math.ceil(k / (s // math.gcd(s, d)))
        for k, s, d in zip(kernel, stride, dilation, strict=True)
    ]
    walk.closed(name, "max pool", math.sqrt(math.prod(times)))
    sides = zip(walk.size, padding, dilation, kernel, stride, strict=True)
    walk.size = _fits(name, [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sides])


def _flatten(walk: Walk, name: str, flatten: Any) -> None:
    if (flatten.start_dim, flatten.end_dim) not in ((1, -1), (1, 3)):
        raise ValueError(f"{name} must flatten all but the images, got {flatten}")
    pixels = math.prod(walk.size)
    if walk.scale is not None and walk.gain is not None:
        walk.scale = walk.scale.repeat_interleave(pixels)
        walk.gain = walk.gain.repeat_interleave(pixels)
    if pixels > 1:
        walk.writers = []
    walk.size = (1, 1)
    walk.closed(name, "flatten", 1.0)


def _pair(value: int | Size) -> Size:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _fits(name: str, size: list[int]) -> Size:
    if min(size) < 1:
        raise ValueError(f"input_size must be large enough for {name}, got an empty output there")
    return size[0], size[1]


LEAVES: dict[type[nn.Module], Reader] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.ReLU: _each("relu", 1.0),
    nn.Tanh: _each("tanh", 1.0, scales=False),
    nn.Sigmoid: _each("sigmoid", 0.25, scales=False),
    nn.Dropout: _each("dropout", 1.0),
    nn.Identity: _each("identity", 1.0),
    nn.Softmax: _softmax,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _global_average,
    nn.MaxPool2d: _largest,
    nn.Flatten: _flatten,
}
