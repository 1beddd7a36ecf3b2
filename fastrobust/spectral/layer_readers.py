"""Lipschitz constants of single layers: a function per kind of layer adds links to a chain."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from .chain import ChainBuilder, ImageSize, Link

Reader: TypeAlias = Callable[[ChainBuilder, str, Any], None]  # builder, name, module


def _conv(builder: ChainBuilder, name: str, conv: Any) -> None:
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
        name, "conv", weight=conv.weight.detach().double(), size=builder.size, stride=conv.stride,
        dilation=conv.dilation, groups=conv.groups, wraps=wraps,
    )  # fmt: skip
    builder.add_weighted(link)
    sides = zip(builder.size, around, reach, conv.stride, strict=True)
    builder.size = _fits(name, [(n + a - r - 1) // s + 1 for n, a, r, s in sides])


def _linear(builder: ChainBuilder, name: str, linear: Any) -> None:
    builder.add_weighted(
        Link(name, "linear", weight=linear.weight.detach().double()[..., None, None])
    )


def _norm(builder: ChainBuilder, name: str, norm: Any) -> None:
    if norm.running_var is None:
        raise ValueError(f"{name} must have running statistics, got none: its scale is the batch's")
    spread = (norm.running_var.detach().double() + norm.eps).sqrt()
    gain = torch.ones_like(spread) if norm.weight is None else norm.weight.detach().double().abs()
    start = 0
    for writer, count in builder.writers:
        if writer is not None and writer.spread is None and start + count <= len(spread):
            writer.spread = spread[start : start + count]
        start += count
    scale = gain / spread
    builder.carry_scale(Link(name, "batch norm", norm=float(scale.max())), scale, gain)


def _each(kind: str, constant: float, *, scales: bool = True) -> Reader:
    """Return the reader of an entrywise layer; `scales`: it commutes with positive factors."""

    def reader(builder: ChainBuilder, name: str, module: Any) -> None:
        builder.add_constant(name, kind, constant)
        if not scales:
            builder.writers = []  # a batch norm behind it does not describe the layer before it

    return reader


def _softmax(builder: ChainBuilder, name: str, module: Any) -> None:
    builder.stop_scale()  # a softmax mixes its entries
    builder.writers = []
    builder.add_constant(name, "softmax", 0.5)


def _average(builder: ChainBuilder, name: str, pool: Any) -> None:
    kernel, stride, padding = (_pair(v) for v in (pool.kernel_size, pool.stride, pool.padding))
    plain = kernel == stride and padding == (0, 0) and pool.divisor_override is None
    if not plain or pool.ceil_mode:
        raise ValueError(f"{name} must average windows that do not overlap, got {pool}")
    # Every window is the inner product with a vector of norm 1 / sqrt(entries).
    builder.add_constant(name, "average pool", 1 / math.sqrt(math.prod(kernel)))
    builder.size = _fits(name, [n // k for n, k in zip(builder.size, kernel, strict=True)])


def _global_average(builder: ChainBuilder, name: str, pool: Any) -> None:
    if pool.output_size not in (1, (1, 1)):
        raise ValueError(f"{name} must average over all pixels, got {pool}")
    average_all(builder, name)


def average_all(builder: ChainBuilder, name: str) -> None:
    """Add the mean over all pixels."""
    builder.add_constant(name, "global average", 1 / math.sqrt(math.prod(builder.size)))
    builder.size = (1, 1)


def _largest(builder: ChainBuilder, name: str, pool: Any) -> None:
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    kernel, stride, padding, dilation = map(_pair, settings)
    if pool.ceil_mode or pool.return_indices:
        raise ValueError(f"{name} must have neither ceil_mode nor return_indices, got {pool}")
    # A pixel lies in at most this many windows per axis, and changes each of them.
    times = [
        math.ceil(k / (s // math.gcd(s, d)))
        for k, s, d in zip(kernel, stride, dilation, strict=True)
    ]
    builder.add_constant(name, "max pool", math.sqrt(math.prod(times)))
    sides = zip(builder.size, padding, dilation, kernel, stride, strict=True)
    builder.size = _fits(name, [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sides])


def _flatten(builder: ChainBuilder, name: str, flatten: Any) -> None:
    if (flatten.start_dim, flatten.end_dim) not in ((1, -1), (1, 3)):
        raise ValueError(f"{name} must flatten all but the images, got {flatten}")
    pixels = math.prod(builder.size)
    if builder.scale is not None and builder.gain is not None:
        builder.scale = builder.scale.repeat_interleave(pixels)
        builder.gain = builder.gain.repeat_interleave(pixels)
    if pixels > 1:
        builder.writers = []
    builder.size = (1, 1)
    builder.add_constant(name, "flatten", 1.0)


def _pair(value: int | ImageSize) -> ImageSize:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _fits(name: str, size: list[int]) -> ImageSize:
    if min(size) < 1:
        raise ValueError(f"input_size must be large enough for {name}, got an empty output there")
    return size[0], size[1]


LAYER_READERS: dict[type[nn.Module], Reader] = {
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
