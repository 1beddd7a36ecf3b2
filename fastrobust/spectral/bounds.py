"""Lipschitz bounds of a classifier, layer by layer and as a whole (arXiv 1812.00181, 3.4 and 5.6).

All norms are Euclidean, pixels are in [0, 1], and every number is computed in float64.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from ..utils import checks
from .chain import Chain, ImageSize, Link, Residual, all_links
from .layers import Layer, layers_of, log_of
from .local import ImageBounds, Inequality, inequalities, measure_images
from .network_readers import read

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LipschitzReport:
    """Bounds of a classifier, and measurements at given images.

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
    input_size: ImageSize
    log_bound: float
    log_bound_units: float
    log_bound_net: float
    images: ImageBounds | None = None
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
    input_size: int | ImageSize,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: Sequence[float] = (),
) -> LipschitzReport:
    """Return Lipschitz bounds of a classifier in eval mode.

    The network's bound is the product over its layers, in which a dense layer h -> [h; H(h)] counts
    sqrt(1 + L^2) with the bound L of H, and a residual block h -> H(h) + S(h) the sum of both. It
    holds for every image, and is mostly far too large; with images a lower bound is measured too.

    Args:
        model: A Classifier, or a module whose outputs are class scores, made of known layers: the
            DenseNets of ``fr.models``, torchvision's ResNets, and ``nn.Sequential`` of Conv2d,
            BatchNorm, Linear, ReLU, Tanh, Sigmoid, Softmax, pooling, Flatten, Dropout and Identity.
        input_size: Height and width of its images, one number for both.
        x: ImageBounds (N, C, H, W) in [0, 1] for the lower bound, margins and certified radii.
        y: Labels (N,): a wrong decision has radius 0. Without it the model's own decisions count.
        eps: L2 radii at which both sides of the paper's inequality are measured, by PGD on the
            training loss; needs `x` and `y`.

    Raises:
        TypeError: A layer is unknown; it is named.
        ValueError: A layer's settings are not covered, weights are not finite, a size or an eps is
            out of range, or what `eps` needs is missing.

    Example:
        >>> from fastrobust.spectral import lipschitz
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
    layers = layers_of(list(all_links(chain)))
    bounds = iter(layers)
    logs = {"net": 0.0, "scores": 0.0, "units": 0.0}
    for item in chain:
        logs[item.part if isinstance(item, Link) else "net"] += _log_bound([item], bounds)
    net = logs["net"]
    log_bound = net + logs["scores"]
    images = None if x is None else measure_images(model, x, y, log_bound)
    sides = () if x is None or y is None else inequalities(model, x, y, eps, net)
    return LipschitzReport(tuple(layers), size, log_bound, net + logs["units"], net, images, sides)


def _log_bound(chain: Chain, layers: Iterator[Layer]) -> float:
    """Return the logarithm of a chain's bound from the layers of its links, in their order."""
    total = 0.0
    for item in chain:
        if isinstance(item, Link):
            total += log_of(next(layers).bound)
            continue
        log = _log_bound(item.chain, layers)
        if isinstance(item, Residual):
            total += float(np.logaddexp(log, _log_bound(item.shortcut, layers)))
        else:  # |[h; H(h)] - [g; H(g)]|^2 <= (1 + L^2) |h - g|^2
            total += float(np.logaddexp(0, 2 * log)) / 2
    return total


def _exp(log: float) -> float:
    try:
        return math.exp(log)
    except OverflowError:
        return math.inf


def _size(value: int | ImageSize) -> ImageSize:
    high, wide = (value, value) if isinstance(value, int) else value
    if min(high, wide) < 1:
        raise ValueError(f"input_size must be at least 1, got {value}")
    return high, wide
