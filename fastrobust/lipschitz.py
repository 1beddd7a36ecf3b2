"""Lipschitz bounds of a classifier, layer by layer and as a whole (arXiv 1812.00181, 3.4 and 5.6).

All norms are Euclidean, pixels are in [0, 1], and every number is computed in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import checks, spectral
from .chains import Dense, Link, Size
from .readers import read
from .sensitivity import Images, Inequality, inequalities, look

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Layer:
    """What one layer contributes.

    Attributes:
        name: Its place in the tree of modules.
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


@dataclass(frozen=True)
class LipschitzReport:
    """Bounds of a classifier, and what given images say beside them.

    Attributes:
        layers: A record per layer, in order of execution.
        input_size: Height and width that they hold for.
        log_bound: Logarithm of a Lipschitz bound of the class scores.
        log_bound_units: The same of the output units, such as probabilities.
        log_bound_net: The same of the pre-activation, the last linear layer's output.
        images: Largest stretch, margin and certified radius of each image, None without images.
        inequalities: Both sides of the paper's inequality at each eps that was asked for.
    """

    layers: tuple[Layer, ...]
    input_size: Size
    log_bound: float
    log_bound_units: float
    log_bound_net: float
    images: Images | None = None
    inequalities: tuple[Inequality, ...] = ()

    @property
    def bound(self) -> float:
        """Lipschitz bound of the class scores; inf where float64 does not reach."""
        return _exp(self.log_bound)

    @property
    def lower_bound(self) -> float | None:
        """Largest Jacobian norm of the class scores over the given images: no bound is below it."""
        return (
            float(self.images.stretch.max()) if self.images and len(self.images.stretch) else None
        )

    @property
    def convolutions(self) -> tuple[Layer, ...]:
        """The layers of Figure 4."""
        return tuple(layer for layer in self.layers if layer.kind == "conv")

    def to_pandas(self) -> "pd.DataFrame":
        """Return `layers` as a data frame, a row each; needs the ``paper`` extra."""
        import pandas as pd

        return pd.DataFrame([asdict(layer) for layer in self.layers])


def lipschitz(
    model: nn.Module,
    input_size: int | Size,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: Sequence[float] = (),
) -> LipschitzReport:
    """Return Lipschitz bounds of a classifier in eval mode.

    The network's bound is the product over its layers, in which a dense layer h -> [h; H(h)] counts
    sqrt(1 + L^2) with the bound L of H. It holds for every image, and is mostly far too large;
    with images it stands beside a lower bound.

    Args:
        model: A Classifier, or a module whose outputs are class scores, made of known layers: the
            DenseNets of ``fr.models``, and ``nn.Sequential`` of Conv2d, BatchNorm, Linear, ReLU,
            Tanh, Sigmoid, Softmax, pooling, Flatten, Dropout and Identity.
        input_size: Height and width of its images, one number for both.
        x: Images (N, C, H, W) in [0, 1] for the lower bound, margins and certified radii.
        y: Labels (N,): a wrong decision has radius 0. Without it the model's own decisions count.
        eps: L2 radii at which both sides of the paper's inequality are measured, by PGD on the
            training loss; needs `x` and `y`.

    Raises:
        TypeError: A layer is unknown; it is named.
        ValueError: A layer's settings are not covered, weights are not finite, a size or an eps is
            out of range, or what `eps` needs is missing.

    Example:
        >>> from fastrobust.lipschitz import lipschitz
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> net[1].weight.data = torch.tensor([[3.0, 0, 0, 0], [0, 4.0, 0, 0]])
        >>> round(lipschitz(net, 2).bound, 6)
        4.0
    """
    size = _size(input_size)
    if x is not None and tuple(checks.images(x).shape[-2:]) != size:
        raise ValueError(f"x must hold images of {size[0]}x{size[1]}, got {tuple(x.shape)}")
    if eps and (x is None or y is None):
        raise ValueError("eps must come with images and labels, got none")
    if not all(0 <= radius < math.inf for radius in eps):
        raise ValueError(f"eps must be finite and >= 0, got {list(eps)}")
    chain = read(model, size)
    layers: list[Layer] = []
    logs = {"net": 0.0, "scores": 0.0, "units": 0.0}
    log_chain = 0.0
    for item in chain:
        log = 0.0
        for link in item.links if isinstance(item, Dense) else [item]:
            _check(link)
            if link.weight is not None and link.part == "net":
                log_chain += _log(_raw(link))
            layers.append(_layer(link, log_chain))
            log += _log(layers[-1].bound)
        # |[h; H(h)] - [g; H(g)]|^2 <= (1 + L^2) |h - g|^2
        logs[layers[-1].part] += _log_hypotenuse(log) if isinstance(item, Dense) else log
    net = logs["net"]
    log_bound = net + logs["scores"]
    images = None if x is None else look(model, x, y, log_bound)
    sides = () if x is None or y is None else inequalities(model, x, y, eps, net)
    return LipschitzReport(tuple(layers), size, log_bound, net + logs["units"], net, images, sides)


def _check(link: Link) -> None:
    known = torch.tensor(link.norm, dtype=torch.float64) if link.weight is None else link.weight
    if not torch.isfinite(known).all():
        raise ValueError(f"{link.name} must have finite weights, got NaN or inf")


def _layer(link: Link, log_chain: float) -> Layer:
    if link.weight is None:
        assert link.norm is not None
        rest = 1.0 if link.folded else link.norm
        return Layer(link.name, link.kind, link.part, link.norm, None, rest, None, rest)
    free = _scaled(link.weight, link.gain, None if link.spread is None else 1 / link.spread)
    folded = _scaled(link.weight, link.scale, None)
    grid, stride = _circle(link)
    return Layer(
        name=link.name,
        kind=link.kind,
        part=link.part,
        raw=_raw(link),
        log_chain=log_chain if link.part == "net" else None,
        folded=_norm(folded, grid, stride, link),
        scale_free=_norm(free, grid, stride, link),
        bound=_norm(folded, *_wider(link), link),
    )


def _raw(link: Link) -> float:
    assert link.weight is not None
    return _norm(link.weight, *_circle(link), link)


def _circle(link: Link) -> tuple[Size, Size]:
    """Return the grid of the paper's circular norm; a stride must divide it."""
    return _up(link.size, link.stride), link.stride


def _wider(link: Link) -> tuple[Size, Size]:
    """Return the grid, and the stride on it, of a bound for a convolution as it pads.

    With zeros it is a circular one on n + k - 1 points or more, between putting zeros around the
    image and leaving out some of the result, both of norm 1.
    """
    assert link.weight is not None
    if link.wraps:
        whole = all(n % s == 0 for n, s in zip(link.size, link.stride, strict=True))
        return link.size, link.stride if whole else (1, 1)
    kernel = link.weight.shape[2:] if link.weight.dim() == 4 else (1, 1)
    sides = zip(link.size, kernel, link.dilation, strict=True)
    high, wide = (n + d * (k - 1) for n, k, d in sides)
    return _up((high, wide), link.stride), link.stride


def _up(size: Size, stride: Size) -> Size:
    high, wide = (-(-n // s) * s for n, s in zip(size, stride, strict=True))
    return high, wide


def _scaled(weight: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
    """Return diag(after) W diag(before)."""
    rest = (1,) * (weight.dim() - 2)
    if after is not None:
        weight = weight * after.reshape(-1, 1, *rest)
    if before is None:
        return weight
    groups = before.numel() // weight.shape[1]  # of a convolution: its inputs in turn
    columns = before.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
    return weight * columns.reshape(len(weight), -1, *rest)


def _norm(weight: Tensor, grid: Size, stride: Size, link: Link) -> float:
    """Return the largest singular value of a linear layer, or of a circular convolution."""
    if weight.dim() == 2:
        return float(torch.linalg.matrix_norm(weight, 2))
    found = spectral.conv_norm(weight, grid, stride, link.dilation, link.groups)
    assert isinstance(found, Tensor)
    return float(found)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _exp(log: float) -> float:
    try:
        return math.exp(log)
    except OverflowError:
        return math.inf


def _log_hypotenuse(log: float) -> float:
    """Return log sqrt(1 + exp(2 log)), also where that overflows."""
    return max(log, 0.0) + 0.5 * math.log1p(math.exp(-2 * abs(log)))


def _size(value: int | Size) -> Size:
    high, wide = (value, value) if isinstance(value, int) else value
    if min(high, wide) < 1:
        raise ValueError(f"input_size must be at least 1, got {value}")
    return high, wide
