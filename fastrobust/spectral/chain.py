"""A network as a chain of linear maps and contractions: what its Lipschitz bound is made of.

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

Size: TypeAlias = tuple[int, int]


@dataclass
class Link:
    """One layer.

    Attributes:
        name: Its place in the tree of modules.
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
    size: Size = (1, 1)
    stride: Size = (1, 1)
    dilation: Size = (1, 1)
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


def every(chain: Chain) -> Iterator[Link]:
    """Yield all links, those of a sum's shortcut last."""
    for item in chain:
        if isinstance(item, Link):
            yield item
        else:
            yield from every(item.chain)
            yield from every(item.shortcut if isinstance(item, Residual) else [])


class Walk:
    """What is known of the signal on its way through the network."""

    def __init__(self, size: Size) -> None:
        self.chain: Chain = []
        self.size = size
        self.scale: Tensor | None = None
        self.gain: Tensor | None = None
        self.scaling: list[Link] = []  # whose effect is in scale
        self.writers: list[tuple[Link | None, int]] = []  # who wrote the channels, and how many

    def add(self, link: Link) -> Link:
        """Add a link as it is."""
        self.chain.append(link)
        return link

    @contextmanager
    def branch(self) -> Iterator[Chain]:
        """Let what is added meanwhile be a chain of its own."""
        outer, self.chain = self.chain, []
        yield self.chain
        self.chain = outer

    def closed(self, name: str, kind: str, norm: float, part: str = "net") -> Link:
        """Add a link whose constant is known."""
        return self.add(Link(name, kind, part, norm=norm))

    def weigh(self, link: Link) -> None:
        """Add a link with a weight; it takes over the scale."""
        link.scale, link.gain = self.scale, self.gain
        for earlier in self.scaling:
            earlier.folded = True
        self.add(link)
        self.forget_scale()
        assert link.weight is not None
        self.writers = [(link, len(link.weight))]

    def rescale(self, link: Link, scale: Tensor, gain: Tensor) -> None:
        """Carry a factor per channel on."""
        self.scaling.append(self.add(link))
        self.scale = scale if self.scale is None else self.scale * scale
        self.gain = gain if self.gain is None else self.gain * gain

    def forget_scale(self) -> None:
        """Let what has scaled so far count where it stands."""
        self.scale = self.gain = None
        self.scaling = []

    def settle(self) -> None:
        """Let what has scaled so far count at the one layer that it follows, as diag(scale) W."""
        (writer, _), *others = self.writers or [(None, 0)]
        if writer is not None and not others and self.scale is not None:
            writer.after = self.scale
            for earlier in self.scaling:
                earlier.folded = True
        self.forget_scale()

    def normalisation(self, std: Tensor) -> None:
        """Add the division by std (1, C, 1, 1) that an input's normalisation is."""
        factor = 1 / std.detach().double().flatten()
        # Pixels have a scale of their own, which no batch norm undoes: it stays in the gain.
        self.rescale(Link("normalize", "normalisation", norm=float(factor.max())), factor, factor)

    def head(self, head: heads.Head) -> None:
        """Add what a head does to the pre-activation z, for its units and for its class scores."""
        self.forget_scale()
        constant = {"softmax": 0.5, "tanh": 1.0, "none": 1.0}[head.activation]
        if head.vectors is None:
            self.closed("head", head.activation, constant, "units")
            return
        self.closed("head", head.activation, constant, "units")
        self.closed("head", head.activation, constant, "scores")
        vectors = head.vectors.detach().double()
        temperature = vectors.shape[1] * heads.TEMPERATURE_PER_UNIT
        self.weigh(
            Link(
                "head.vectors",
                "codewords",
                "scores",
                weight=(vectors / temperature)[..., None, None],
            )
        )
