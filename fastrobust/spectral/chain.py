"""A network as a chain of linear maps and contractions, from which its bound is computed.

A batch norm in eval mode multiplies every channel by s = gamma / sqrt(var + eps). What multiplies
channel by channel commutes with pooling and, as far as Lipschitz bounds go, with every activation
that works entry by entry; so s is carried on to the next convolution or linear layer and counts
there as W diag(|s|), which is tighter than |W| max |s|.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from ..models import heads

ImageSize: TypeAlias = tuple[int, int]


@dataclass
class Link:
    """One layer.

    Attributes:
        name: Its name in the tree of modules.
        kind: Such as ``"conv"`` or ``"relu"``.
        part: ``"net"``, or ``"scores"`` or ``"units"`` for what a head adds on the way to its class
            scores or to its output units.
        norm: Its Lipschitz constant where that is known in closed form; None where it has a weight.
        weight: (out, in / groups, kh, kw), float64; a linear layer is a 1x1 convolution.
        size: Height and width of a convolution's input.
        stride, dilation, groups: A convolution's.
        wraps: Whether it pads circularly, with as many rows and columns as keep the size.
        scale: (in,) what multiplies every input channel before it, batch norms and 1 / std of the
            input's normalisation; None for 1.
        after: (out,) what multiplies every output channel and counts here; None for 1.
        gain: (in,) the same with every variance taken as 1.
        spread: (out,) standard deviation of its output channels, as the next batch norm knows it.
        folded: Whether its effect is in the scale of a later layer.
    """

    name: str
    kind: str
    part: str = "net"
    norm: float | None = None
    weight: Tensor | None = None
    size: ImageSize = (1, 1)
    stride: ImageSize = (1, 1)
    dilation: ImageSize = (1, 1)
    groups: int = 1
    wraps: bool = False
    scale: Tensor | None = None
    after: Tensor | None = None
    gain: Tensor | None = None
    spread: Tensor | None = None
    folded: bool = False


@dataclass
class Dense:
    """A dense layer h -> [h; H(h)].

    Attributes:
        chain: H.
    """

    chain: "Chain"


@dataclass
class Residual:
    """A sum h -> H(h) + S(h).

    Attributes:
        chain: H.
        shortcut: S, empty for the identity.
    """

    chain: "Chain"
    shortcut: "Chain"


Chain: TypeAlias = list[Link | Dense | Residual]


def all_links(chain: Chain) -> Iterator[Link]:
    """Yield all links, those of a sum's shortcut last."""
    for item in chain:
        if isinstance(item, Link):
            yield item
        else:
            yield from all_links(item.chain)
            yield from all_links(item.shortcut if isinstance(item, Residual) else [])


class ChainBuilder:
    """Builds a chain layer by layer, and carries factors per channel on to later layers."""

    def __init__(self, size: ImageSize) -> None:
        self.chain: Chain = []
        self.size = size
        self.scale: Tensor | None = None
        self.gain: Tensor | None = None
        self.scaling: list[Link] = []  # links whose effect is in `scale`
        self.writers: list[tuple[Link | None, int]] = []  # link and number of channels

    def add(self, link: Link) -> Link:
        """Add a link."""
        self.chain.append(link)
        return link

    @contextmanager
    def branch(self) -> Iterator[Chain]:
        """Collect the links that are added meanwhile in a chain of their own."""
        outer, self.chain = self.chain, []
        yield self.chain
        self.chain = outer

    def add_constant(self, name: str, kind: str, norm: float, part: str = "net") -> Link:
        """Add a link whose Lipschitz constant is known in closed form."""
        return self.add(Link(name, kind, part, norm=norm))

    def add_weighted(self, link: Link) -> None:
        """Add a link with a weight, which takes over the scale carried so far."""
        link.scale, link.gain = self.scale, self.gain
        for earlier in self.scaling:
            earlier.folded = True
        self.add(link)
        self.stop_scale()
        assert link.weight is not None
        self.writers = [(link, len(link.weight))]

    def carry_scale(self, link: Link, scale: Tensor, gain: Tensor) -> None:
        """Carry a factor per channel on to the next link with a weight."""
        self.scaling.append(self.add(link))
        self.scale = scale if self.scale is None else self.scale * scale
        self.gain = gain if self.gain is None else self.gain * gain

    def stop_scale(self) -> None:
        """Count the links that scaled so far by their own constants."""
        self.scale = self.gain = None
        self.scaling = []

    def fold_scale_back(self) -> None:
        """Count the scale at the one layer before it, as diag(scale) W, if there is only one."""
        (writer, _), *others = self.writers or [(None, 0)]
        if writer is not None and not others and self.scale is not None:
            writer.after = self.scale
            for earlier in self.scaling:
                earlier.folded = True
        self.stop_scale()

    def normalisation(self, std: Tensor) -> None:
        """Add the normalisation of the input, a division by std (1, C, 1, 1)."""
        factor = 1 / std.detach().double().flatten()
        # No batch norm undoes the scale of the pixels, so it stays in the gain.
        self.carry_scale(
            Link("normalize", "normalisation", norm=float(factor.max())), factor, factor
        )

    def head(self, head: heads.Head) -> None:
        """Add the maps of a head from the pre-activation z to its units and to its class scores."""
        self.stop_scale()
        constant = {"softmax": 0.5, "tanh": 1.0, "none": 1.0}[head.activation]
        if head.vectors is None:
            self.add_constant("head", head.activation, constant, "units")
            return
        self.add_constant("head", head.activation, constant, "units")
        self.add_constant("head", head.activation, constant, "scores")
        vectors = head.vectors.detach().double()
        temperature = vectors.shape[1] * heads.TEMPERATURE_PER_UNIT
        self.add_weighted(
            Link(
                "head.vectors",
                "codewords",
                "scores",
                weight=(vectors / temperature)[..., None, None],
            )
        )
