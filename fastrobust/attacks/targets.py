"""Which class a row must leave or reach."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine.gradients import Oracle
from ..ops.philox import philox4x32, split
from ..utils import checks

# Random starts count their restarts in this counter word, upwards from 0.
_TARGETS = 0xFFFFFFFF


def random_targets(
    labels: Tensor, num_classes: int, seed: int = 0, index: Tensor | None = None
) -> Tensor:
    """Draw a target for every image, uniformly from the K-1 classes other than its label.

    Args:
        labels: (N,) int64 true labels.
        num_classes: number of classes K >= 2.
        seed: seed of the draw.
        index: (N,) int64 index of each image in its data set, the key of its draw, so that batches
            and order never matter; 0..N-1 by default.

    Returns:
        (N,) int64 targets on the labels' device.

    Raises:
        ValueError: there is no other class, a label is out of range, shapes differ.

    Example:
        >>> random_targets(torch.tensor([3, 3, 3]), 10, seed=1)
        tensor([...])
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be >= 2 for a target to exist, got {num_classes}")
    labels = checks.labels(labels, len(labels), num_classes, labels.device, "labels")
    index = row_index(index, labels)
    key = index.cpu().numpy()
    counter = np.stack(
        [np.zeros_like(key), key & 0xFFFFFFFF, key >> 32, np.full_like(key, _TARGETS)], 1
    )
    words = torch.from_numpy(philox4x32(counter, split(seed))[:, 0].astype(np.int64))
    offset = 1 + (words * (num_classes - 1) >> 32)
    return (labels + offset.to(labels.device)) % num_classes


def row_index(index: Tensor | None, like: Tensor) -> Tensor:
    """Return each row's place in its data set (N,) int64, on the device of `like`."""
    if index is None:
        return torch.arange(len(like), device=like.device)
    return checks.labels(index, len(like), 2**63 - 1, like.device, "index")


class Goal(NamedTuple):
    """What each row wants.

    Attributes:
        y: (N,) int64 label to leave or target to reach.
        sign: (N,) factor of the loss that leads there.
        valid: (N,) bool, False where the network gave NaN.
        asked: evaluations of each row that this took.
        z: (N, d) pre-activations of the images, where they were asked for.
    """

    y: Tensor
    sign: Tensor
    valid: Tensor
    asked: int
    z: Tensor | None


def goal(oracle: Oracle, x: Tensor, y: Tensor | None, target: Tensor | None) -> Goal:
    """Say what each row wants.

    Raises:
        TypeError, ValueError, RuntimeError: labels that :func:`fastrobust.checks.labels` refuses,
            or a target that equals its label.
    """
    valid = torch.ones(len(x), dtype=torch.bool, device=x.device)
    sign = torch.ones(len(x), dtype=x.dtype, device=x.device)
    if y is None and target is None:
        # The model's own decision, so that the attack learns nothing from the true label.
        z, decision, valid = oracle.decide(x)
        return Goal(decision, sign, valid, 1, z)
    classes = oracle.num_classes(x)
    if y is not None:
        y = checks.labels(y, len(x), classes, x.device, "y")
        if target is None:
            return Goal(y, sign, valid, 0, None)
    target = checks.labels(target, len(x), classes, x.device, "target")
    if y is not None and (target == y).any():
        row = int((target == y).nonzero()[0])
        raise ValueError(f"target must differ from y, got {int(y[row])} for both in row {row}")
    return Goal(target, -sign, valid, 0, None)


def highest_rivals(scores: Tensor, y: Tensor, count: int) -> Tensor:
    """Return the classes other than y by descending score, (N, min(count, K - 1)) int64.

    Args:
        scores: (N, K) class scores.
        y: (N,) int64 class that is left out.
        count: how many.

    Example:
        >>> import torch
        >>> highest_rivals(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), 9)
        tensor([[2, 1]])
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    others = order[order != y[:, None]].view(len(y), -1)
    return others[:, :count]


def check_rivals(rivals: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return rivals (N, T) int64 that a caller gave.

    Raises:
        TypeError, ValueError, RuntimeError: they are no classes, do not fit y (N,), or name y.
    """
    if rivals.dim() != 2 or len(rivals) != len(y):
        raise ValueError(f"rivals must have shape ({len(y)}, T), got {tuple(rivals.shape)}")
    flat = checks.labels(rivals.flatten(), rivals.numel(), num_classes, y.device, "rivals")
    classes = flat.view(rivals.shape)
    if (classes == y[:, None]).any():
        raise ValueError("rivals must differ from y, got y among them")
    return classes
