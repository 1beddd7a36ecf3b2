"""A classifier and the test images that it is attacked on, in batches of one size."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..attacks.targets import Goal, random_targets
from ..engine.gradients import Oracle
from ..engine.opening import oracle
from ..models.classifier import Classifier


@dataclass(frozen=True)
class Testbed:
    """A classifier and the test images that it is attacked on.

    Attributes:
        model: The classifier, on the device where x is.
        x: Images (N, C, H, W) with pixels in [0, 1].
        y: True labels (N,).
        num_classes: Number of classes.
        batch: Number of rows in every call of the network. A last batch is filled up with copies
            of its last row, so that no result depends on the number of images.
        seed: Seed of targets and random starts.
    """

    model: Classifier
    x: Tensor
    y: Tensor
    num_classes: int
    batch: int
    seed: int

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def clean(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pre-activations (N, d), decisions (N,) and their validity (N,) on the clean images."""
        with oracle(self.model, self.x.device) as network:
            return self.decide(network, self.x)

    @property
    def decision(self) -> Tensor:
        """Decisions (N,) on the clean images."""
        return self.clean[1]

    def decide(self, network: Oracle, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pre-activations, decisions and validity of any images of this shape."""
        z, decision, valid = in_batches(self.batch, lambda x: tuple(network.decide(x)), images)
        return z, decision, valid

    def goal(self, *, targeted: bool, labels: str) -> Goal:
        """Return the class that an attack must reach or leave on every image.

        Args:
            targeted: Reach a random class other than the true one.
            labels: Otherwise leave the model's ``"own"`` decision, or the ``"true"`` label.
        """
        z, decision, valid = self.clean
        sign, all_valid = torch.ones_like(self.y, dtype=self.x.dtype), torch.ones_like(valid)
        if targeted:
            target = random_targets(self.y, self.num_classes, self.seed)
            return Goal(target, -sign, all_valid, 0, z)
        if labels == "own":
            return Goal(decision, sign, valid, 1, z)
        return Goal(self.y, sign, all_valid, 0, z)


def in_batches(
    batch: int, ask: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
) -> tuple[Tensor, ...]:
    """Call `ask` on `batch` rows of the tensors at a time; join the answers.

    A last batch is filled up with copies of its last row.
    """
    count, parts = len(tensors[0]), []
    for first in range(0, count, batch):
        rows = torch.arange(first, first + batch, device=tensors[0].device).clamp_(max=count - 1)
        answer = ask(*(tensor[rows] for tensor in tensors))
        parts.append(tuple(part[: count - first] for part in answer))
    return tuple(map(torch.cat, zip(*parts, strict=True)))
