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
        batch: Number of rows in every call of the network; a last batch is filled up with copies
            of its last row, so that no result depends on how many images there are.
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
        z, decision, valid = self.in_batches(images, lambda x: tuple(network.decide(x)))
        return z, decision, valid

    def in_batches(
        self, images: Tensor, ask: Callable[..., tuple[Tensor, ...]], *beside: Tensor
    ) -> tuple[Tensor, ...]:
        """Call `ask` on `batch` images at a time, with their rows of `beside`; join the answers."""
        count, parts = len(images), []
        for start in range(0, count, self.batch):
            rows = torch.arange(start, start + self.batch, device=images.device)
            kept = min(self.batch, count - start)
            rows.clamp_(max=count - 1)
            answer = ask(images[rows], *(other[rows] for other in beside))
            parts.append(tuple(part[:kept] for part in answer))
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    def goal(self, *, targeted: bool, labels: str) -> Goal:
        """Return what an attack shall reach on every image.

        Args:
            targeted: A random class other than the true one.
            labels: Otherwise any class but the model's ``"own"`` decision, or the ``"true"`` one.
        """
        z, decision, valid = self.clean
        sign, all_valid = torch.ones_like(self.y, dtype=self.x.dtype), torch.ones_like(valid)
        if targeted:
            target = random_targets(self.y, self.num_classes, self.seed)
            return Goal(target, -sign, all_valid, 0, z)
        if labels == "own":
            return Goal(decision, sign, valid, 1, z)
        return Goal(self.y, sign, all_valid, 0, z)
