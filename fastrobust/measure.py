"""Measures one cell: an attack over the held-out images of one classifier, in constant shapes."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import attacks
from .classifier import Classifier
from .plans import Cell
from .store import IMAGES_KEPT


@dataclass(frozen=True)
class Subject:
    """A classifier and the held-out images that it is judged on.

    Attributes:
        model: The classifier, on the device where x is.
        x: Images (N, C, H, W) with pixels in [0, 1].
        y: True labels (N,).
        num_classes: Number of classes.
        batch: Rows the network gets at once; the last batch is filled up with copies of its last
            row, so that no result depends on how many images there are.
        seed: Of targets and random starts.
    """

    model: Classifier
    x: Tensor
    y: Tensor
    num_classes: int
    batch: int
    seed: int

    def batches(self) -> Iterator[tuple[Tensor, int]]:
        """Yield the places (batch,) of the images of every batch, and how many of them count."""
        count = len(self.x)
        for start in range(0, count, self.batch):
            places = torch.arange(start, start + self.batch, device=self.x.device)
            yield places.clamp_(max=count - 1), min(self.batch, count - start)

    @cached_property
    def clean(self) -> Tensor:
        """Decisions (N,) on the clean images."""
        parts = [self.model.predict(self.x[rows])[:kept] for rows, kept in self.batches()]
        return torch.cat(parts)


@dataclass(frozen=True)
class Measurement:
    """What `store.RunFolder.write` takes: the rows, the sums beside them, the first images."""

    rows: dict[str, np.ndarray]
    facts: dict[str, Any]
    images: dict[str, np.ndarray] | None


def measure(cell: Cell, subject: Subject, advance: Callable[[int], None]) -> Measurement:
    """Run the attack of `cell` and return a row per image.

    Args:
        cell: What to run; its attack None means the clean images themselves.
        subject: On which classifier and images.
        advance: Called with the number of images done after every batch.
    """
    clean = subject.clean
    start = time.perf_counter()
    columns: list[dict[str, Tensor]] = []
    adversarial: list[Tensor] = []
    executed = 0
    for rows, kept in subject.batches():
        with _counted(subject.model.net) as evaluations:
            judged = _clean(subject, rows) if cell.attack is None else _attack(cell, subject, rows)
        executed += sum(evaluations)
        columns.append({name: column[:kept].cpu() for name, column in judged.items()})
        if rows[0] < IMAGES_KEPT:
            adversarial.append(columns[-1].pop("adv"))
        columns[-1].pop("adv", None)
        advance(kept)
    seconds = time.perf_counter() - start
    table = {name: torch.cat([part[name] for part in columns]).numpy() for name in columns[0]}
    table["clean"] = clean.cpu().numpy()
    facts = {
        "seconds": seconds,
        "naive": int(table["queries"].sum()),  # what the algorithm asks for, row by row
        "executed": executed,  # what the network really ran
        "invalid": int(table.pop("invalid").sum()),  # rows given up on NaN
    }
    images = None
    if cell.attack is not None:
        first = torch.cat(adversarial)[:IMAGES_KEPT].numpy()
        images = {"index": table["index"][:IMAGES_KEPT], "adversarial": first}
    return Measurement(table, facts, images)


def _attack(cell: Cell, subject: Subject, rows: Tensor) -> dict[str, Tensor]:
    """Return the columns of one batch under the attack of `cell`."""
    x, y = subject.x[rows], subject.y[rows]
    given: dict[str, Tensor] = {}
    target = torch.full_like(y, -1)
    if cell.targeted:
        target = attacks.random_targets(y, subject.num_classes, subject.seed, rows)
        given["target"] = target
    elif cell.labels == "true":
        given["y"] = y
    attack = attacks.from_repr(str(cell.attack))
    with warnings.catch_warnings():
        # The paper's BIM steps across its whole ball, and rows with NaN are counted in the facts.
        warnings.simplefilter("ignore", UserWarning)
        result = attack.run(subject.model, x, **given, seed=subject.seed, index=rows)
    judged = ("decision", "claimed", "success", "l2", "linf", "queries", "invalid", "adv")
    return {
        "index": rows,
        "label": y,
        "target": target,
        **{name: getattr(result, name) for name in judged},
    }


@contextmanager
def _counted(net: nn.Module) -> Iterator[list[int]]:
    """Collect how many images go through a network, forward and backward counting one each."""
    evaluations: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        backward = torch.is_grad_enabled() and inputs[0].requires_grad
        evaluations.append(len(inputs[0]) * (2 if backward else 1))

    handle = net.register_forward_pre_hook(count)
    try:
        yield evaluations
    finally:
        handle.remove()


def _clean(subject: Subject, rows: Tensor) -> dict[str, Tensor]:
    """Return the same columns for clean images: nothing attacks, the decision is the clean one."""
    y, decision = subject.y[rows], subject.model.predict(subject.x[rows])
    nothing = torch.zeros(len(rows), dtype=torch.float64)
    return {
        "index": rows,
        "label": y,
        "target": torch.full_like(y, -1),
        "decision": decision,
        "claimed": nothing.bool(),
        "success": nothing.bool(),
        "l2": nothing,
        "linf": nothing,
        "queries": torch.ones_like(y),
        "invalid": nothing.bool(),
        "adv": subject.x[rows],
    }
