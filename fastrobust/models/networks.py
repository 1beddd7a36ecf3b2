"""DenseNet and DenseNet-BC for small images (Huang et al. 2017, arXiv 1608.06993, section 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NormReLUConv(nn.Module):
    """Batch norm, ReLU, convolution: the order of arXiv 1608.06993."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H, W)."""
        out: Tensor = self.conv(F.relu(self.norm(x)))
        return out


class DenseLayer(nn.Module):
    """Append `growth` channels to the input; with a bottleneck, through 4 * growth channels."""

    def __init__(self, in_channels: int, growth: int, bottleneck: bool) -> None:
        super().__init__()
        width = 4 * growth
        self.bottleneck = NormReLUConv(in_channels, width, 1) if bottleneck else None
        self.grow = NormReLUConv(width if bottleneck else in_channels, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + growth, H, W)."""
        hidden = x if self.bottleneck is None else self.bottleneck(x)
        return torch.cat([x, self.grow(hidden)], 1)


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, global pooling, a linear layer.

    Built by :func:`densenet`; `arguments` rebuilds it.
    """

    def __init__(
        self,
        layers: Sequence[int],
        growth: int,
        bottleneck: bool,
        compression: float,
        init_channels: int,
        in_channels: int,
        num_outputs: int,
    ) -> None:
        super().__init__()
        self.arguments = {
            "layers": list(layers),
            "growth": growth,
            "bottleneck": bottleneck,
            "compression": compression,
            "init_channels": init_channels,
            "in_channels": in_channels,
            "num_outputs": num_outputs,
        }
        channels = init_channels
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for block, count in enumerate(layers):
            if block:
                kept = int(channels * compression)
                self.transitions.append(
                    nn.Sequential(NormReLUConv(channels, kept, 1), nn.AvgPool2d(2))
                )
                channels = kept
            self.blocks.append(
                nn.Sequential(
                    *(DenseLayer(channels + i * growth, growth, bottleneck) for i in range(count))
                )
            )
            channels += count * growth
        self.norm = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to pre-activations (N, num_outputs)."""
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = block(x if index == 0 else self.transitions[index - 1](x))
        out: Tensor = self.linear(F.relu(self.norm(x)).mean((2, 3)))
        return out


def densenet(
    depth: int = 40,
    growth: int = 12,
    *,
    bottleneck: bool = True,
    compression: float = 0.5,
    layers: Sequence[int] | None = None,
    init_channels: int | None = None,
    in_channels: int = 3,
    num_outputs: int = 10,
) -> DenseNet:
    """Build a DenseNet; the defaults are DenseNet-BC 40-12, 176,122 parameters on CIFAR-10.

    Args:
        depth: number of layers L as the DenseNet paper counts them: three equal blocks, so
            L = 4 mod 6 with a bottleneck and 4 mod 3 without. Unused when `layers` is given.
        growth: channels k that a layer adds.
        bottleneck: a 1x1 convolution to 4k channels before each 3x3 one ("B").
        compression: share of the channels that a transition keeps ("C"); 1 keeps all.
        layers: number of layers of each block, instead of `depth`.
        init_channels: channels after the stem; 2k with a bottleneck, else 16.
        in_channels: channels of the images.
        num_outputs: width of the last linear layer.

    Raises:
        ValueError: a number is out of range, or `depth` does not divide into blocks.

    Example:
        >>> sum(p.numel() for p in densenet(40, 12).parameters())
        176122
    """
    if layers is None:
        per_layer = 6 if bottleneck else 3
        if depth < 4 + per_layer or (depth - 4) % per_layer:
            raise ValueError(
                f"depth must be 4 plus a positive multiple of {per_layer} "
                f"{'with' if bottleneck else 'without'} a bottleneck, got {depth}"
            )
        layers = [(depth - 4) // per_layer] * 3
    if init_channels is None:
        init_channels = 2 * growth if bottleneck else 16
    counts = {
        "growth": growth,
        "init_channels": init_channels,
        "in_channels": in_channels,
        "num_outputs": num_outputs,
        "the smallest of layers": min(layers, default=0),
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if not 0 < compression <= 1:
        raise ValueError(f"compression must lie in (0, 1], got {compression}")
    return DenseNet(
        layers, growth, bottleneck, compression, init_channels, in_channels, num_outputs
    )


def by_name(name: str, in_channels: int = 3, num_outputs: int = 10) -> DenseNet:
    """Build a network by its short name.

    Args:
        name: ``"digits"`` (BC, two blocks of three layers, growth 8), ``"L-k"`` (DenseNet-BC of
            depth L and growth k, such as ``"40-12"``) or ``"plain-L-k"`` (no bottleneck, no
            compression).
        in_channels: channels of the images.
        num_outputs: width of the last linear layer.

    Raises:
        ValueError: the name is none of these, or its depth does not divide into blocks.

    Example:
        >>> by_name("plain-40-12").arguments["layers"]
        [12, 12, 12]
    """
    if name == "digits":
        return densenet(layers=(3, 3), growth=8, in_channels=in_channels, num_outputs=num_outputs)
    plain = name.startswith("plain-")
    try:
        depth, growth = map(int, name.removeprefix("plain-").split("-"))
    except ValueError:
        raise ValueError(f'net must be "digits", "L-k" or "plain-L-k", got {name!r}') from None
    return densenet(
        depth,
        growth,
        bottleneck=not plain,
        compression=1.0 if plain else 0.5,
        in_channels=in_channels,
        num_outputs=num_outputs,
    )


def architecture(net: nn.Module) -> dict[str, object]:
    """Return the arguments of :func:`densenet` that rebuild `net`, as plain JSON values.

    Raises:
        TypeError: `net` was not built by :func:`densenet`.
    """
    if not isinstance(net, DenseNet):
        raise TypeError(f"net must be a fastrobust DenseNet, got {type(net).__name__}")
    return dict(net.arguments)
