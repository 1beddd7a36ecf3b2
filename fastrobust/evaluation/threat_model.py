"""What an attacker may do to an image."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..ops.random_start_op import launch_start
from ..ops.step_op import into_ball


@dataclass(frozen=True)
class ThreatModel:
    """A ball around each image, inside a box.

    Attributes:
        norm: ``"linf"`` or ``"l2"`` (not squared).
        eps: Radius of the ball, in pixel units and the units of `norm`.
        clip: Box of the pixels, or None for no box.

    Raises:
        ValueError: `eps` is not finite and positive, or `norm` is unknown.

    Example:
        >>> ThreatModel("linf", 8 / 255)
        ThreatModel(norm='linf', eps=0.03137254901960784, clip=(0.0, 1.0))
    """

    norm: str
    eps: float
    clip: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be finite and > 0, got {self.eps}")
        if self.norm not in ("linf", "l2"):
            raise ValueError(f'norm must be "linf" or "l2", got {self.norm!r}')

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of an attack within it."""
        return asdict(self)

    def project(self, adv: Tensor, x: Tensor) -> Tensor:
        """Return adv (N, ...), moved in place into the balls around x (N, ...) and into the box."""
        eps = adv.new_full((len(adv),), self.eps)
        into_ball(adv, x.contiguous(), eps, self.norm, self.clip)
        return adv

    def draw(
        self, x: Tensor, seed: int, index: Tensor, number: Tensor, *, share: float = 1.0
    ) -> Tensor:
        """Return random points in balls of `share` of eps around x (N, ...).

        They are keyed by `seed` and by each row's `index` and `number` (N,) int64.
        """
        x0 = x.contiguous()
        eps = x0.new_full((len(x0),), share * self.eps)
        box = self.clip or (None, None)
        return launch_start(x0.new_empty(x0.shape), x0, self.norm, eps, seed, index, number, *box)
