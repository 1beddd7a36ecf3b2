"""What each layer of a chain contributes to a Lipschitz bound: norms in float64, all at once."""

import math
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

from . import conv
from .chain import ImageSize, Link

_Numbers: TypeAlias = tuple[float, float | None, float, float | None, float]  # the last of Layer
_Convolution: TypeAlias = tuple[Tensor, ImageSize, ImageSize, ImageSize, int]  # of conv_norm


@dataclass(frozen=True)
class Layer:
    """What one layer contributes.

    Attributes:
        name: Its name in the tree of modules.
        kind: ``"conv"``, ``"linear"``, ``"batch norm"``, ``"relu"`` and so on.
        part: ``"net"``; ``"scores"`` or ``"units"`` for what a head adds on the way to its class
            scores or to its output units.
        raw: Its own norm, a convolution's with circular padding: what the paper's Figure 4 shows.
            An input that a stride does not divide is enlarged for it.
        log_chain: Logarithm of the paper's Lambda^l = |theta^l| Lambda^(l-1) over the raw norms of
            convolutions and linear layers. It is no bound of a DenseNet, whose layers pass their
            input on, and leaves batch norms out.
        folded: Norm of W diag(|s|), with s = gamma / sqrt(var + eps) of the batch norms before it;
            1 for a batch norm that is counted so.
        scale_free: Norm of diag(1 / std_out) W diag(|gamma|) with the standard deviation of each
            output channel that the next batch norm keeps: from one normalised signal to the next.
            Multiplying W by a changes nothing here, as it changes nothing in the network. Of
            convolutions and linear layers; std_out is 1 where no batch norm follows.
        bound: `folded`, with a bound for zero padding in place of the circular norm: what the bound
            of the network is made of.
    """

    name: str
    kind: str
    part: str
    raw: float
    log_chain: float | None
    folded: float
    scale_free: float | None
    bound: float


def layers_of(links: list[Link]) -> list[Layer]:
    """Return what each link contributes; all norms are found together."""
    wishes = [task for link in links for task in _wishes(link)]
    columns = [list(column) for column in zip(*wishes, strict=True)]
    norms = iter([float(norm) for norm in conv.conv_norms(*columns)] if wishes else [])
    layers, log_chain = [], 0.0
    for link in links:
        if link.weight is None:
            assert link.norm is not None
            rest = 1.0 if link.folded else link.norm
            numbers: _Numbers = link.norm, None, rest, None, rest
        else:
            raw, folded, free, bound = islice(norms, 4)
            log_chain += log_of(raw) if link.part == "net" else 0.0
            numbers = raw, log_chain if link.part == "net" else None, folded, free, bound
        layers.append(Layer(link.name, link.kind, link.part, *numbers))
    return layers


def _wishes(link: Link) -> list[_Convolution]:
    """List what the norms of a layer are norms of: raw, folded, scale-free, bound."""
    if not torch.isfinite(torch.tensor(link.norm) if link.weight is None else link.weight).all():
        raise ValueError(f"{link.name} must have finite weights, got NaN or inf")
    if link.weight is None:
        return []
    folded = _scaled(link.weight, link.scale, link.after)
    free = _scaled(link.weight, link.gain, None if link.spread is None else 1 / link.spread)
    circle = _up(link.size, link.stride), link.stride  # the paper's; a stride must divide it
    rest = link.dilation, link.groups
    return [
        *((weight, *circle, *rest) for weight in (link.weight, folded, free)),
        (folded, *_wider(link), *rest),
    ]


def _wider(link: Link) -> tuple[ImageSize, ImageSize]:
    """Return the grid, and the stride on it, of a bound for a convolution as it pads.

    With zeros it is a circular one on n + k - 1 points or more, between putting zeros around the
    image and leaving out some of the result, both of norm 1.
    """
    if link.wraps:
        whole = all(n % s == 0 for n, s in zip(link.size, link.stride, strict=True))
        return link.size, link.stride if whole else (1, 1)
    assert link.weight is not None
    sides = zip(link.size, link.weight.shape[2:], link.dilation, strict=True)
    high, wide = (n + d * (k - 1) for n, k, d in sides)
    return _up((high, wide), link.stride), link.stride


def _up(size: ImageSize, stride: ImageSize) -> ImageSize:
    high, wide = (-(-n // s) * s for n, s in zip(size, stride, strict=True))
    return high, wide


def _scaled(weight: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
    """Return diag(after) W diag(before)."""
    if after is not None:
        weight = weight * after[:, None, None, None]
    if before is None:
        return weight
    groups = before.numel() // weight.shape[1]
    columns = before.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
    return weight * columns.reshape(len(weight), -1, 1, 1)


def log_of(value: float) -> float:
    """Return the logarithm, of 0 too."""
    return math.log(value) if value > 0 else -math.inf
