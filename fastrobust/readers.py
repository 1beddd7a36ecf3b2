"""How each kind of layer reads as links of a chain."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from .chains import Dense, Link, Size, Walk
from .classifier import Classifier
from .models.densenet import DenseLayer, DenseNet, NormReLUConv


def read(model: nn.Module, size: Size) -> list[Link | Dense]:
    """Return the chain of a classifier or of a plain module, in order of execution.

    Args:
        model: A tree of known layers; it is read as in eval mode.
        size: Height and width of its images.

    Raises:
        TypeError: A layer is unknown; it is named.
        ValueError: A layer's settings are not covered, or the images are too small for it.
    """
    walk = Walk(size)
    if isinstance(model, Classifier):
        if model.std is not None:
            walk.normalisation(model.std)
        visit(walk, "net", model.net)
        walk.head(model.head)
    else:
        visit(walk, "", model)
    return walk.chain


def visit(walk: Walk, name: str, module: nn.Module) -> None:
    """Add a module's links."""
    if any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module):
        raise TypeError(f"{name or 'model'} must be a plain layer, got hooks or its own forward")
    read_it = _READERS.get(type(module))
    if read_it is None:
        known = ", ".join(sorted(kind.__name__ for kind in _READERS))
        raise TypeError(
            f"{name or 'model'} must be one of {known} for its Lipschitz constant to be "
            f"known, got {type(module).__name__}"
        )
    read_it(walk, name, module)


def _sequence(walk: Walk, name: str, module: Any) -> None:
    for child_name, child in module._modules.items():  # named_children would skip a second use
        visit(walk, _below(name, child_name), child)


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
    walk.weigh(Link(name, "linear", weight=linear.weight.detach().double()))


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


def _each(kind: str, constant: float, *, scales: bool = True) -> "_Reader":
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
    _average_all(walk, name)


def _average_all(walk: Walk, name: str) -> None:
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


def _norm_relu_conv(walk: Walk, name: str, module: Any) -> None:
    visit(walk, _below(name, "norm"), module.norm)
    walk.closed(_below(name, "relu"), "relu", 1.0)
    visit(walk, _below(name, "conv"), module.conv)


def _dense_layer(walk: Walk, name: str, layer: Any) -> None:
    walk.forget_scale()  # what is passed on unchanged needs it too
    outer, before = walk.chain, walk.writers
    walk.chain = []
    for part in ("bottleneck", "grow"):
        if (module := getattr(layer, part)) is not None:
            visit(walk, _below(name, part), module)
    links = [link for link in walk.chain if isinstance(link, Link)]
    walk.chain = [*outer, Dense(links)]
    walk.writers = [*before, *walk.writers]


def _dense_net(walk: Walk, name: str, net: Any) -> None:
    visit(walk, _below(name, "stem"), net.stem)
    for index, block in enumerate(net.blocks):
        if index:
            visit(walk, _below(name, f"transitions.{index - 1}"), net.transitions[index - 1])
        visit(walk, _below(name, f"blocks.{index}"), block)
    visit(walk, _below(name, "norm"), net.norm)
    walk.closed(_below(name, "relu"), "relu", 1.0)
    _average_all(walk, _below(name, "mean"))
    visit(walk, _below(name, "linear"), net.linear)


def _below(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


def _pair(value: int | Size) -> Size:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _fits(name: str, size: list[int]) -> Size:
    if min(size) < 1:
        raise ValueError(f"input_size must be large enough for {name}, got an empty output there")
    return size[0], size[1]


_HOOKS = "_forward_hooks", "_forward_pre_hooks"
_Reader: TypeAlias = Callable[[Walk, str, Any], None]
_READERS: dict[type[nn.Module], _Reader] = {
    nn.Sequential: _sequence,
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
    NormReLUConv: _norm_relu_conv,
    DenseLayer: _dense_layer,
    DenseNet: _dense_net,
}
