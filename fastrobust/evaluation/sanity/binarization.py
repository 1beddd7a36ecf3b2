"""The binarization test: an attack must find an adversarial image that is known to exist.

Zimmermann, Brendel, Tramer and Carlini, "Increasing Confidence in Adversarial Robustness
Evaluations", arXiv 2206.13991: around an image a linear readout of the model's outputs is made that
tells one point on the edge of the ball from points inside. An attack on this two-class model that
does not get to the other class fails for its own reasons, since an adversarial image is known.
"""

import torch
from torch import Tensor, nn

from ...attacks.apgd import APGD
from ...utils.modules import in_its_dtype
from ..comparisons import by_share
from ..results import Check
from .case import Probe, skipped

_IMAGES, _INSIDE = 16, 200  # images that get a readout, and points drawn inside each ball


def binarized(probe: Probe) -> Check:
    """Attack the readouts of some images."""
    name = "binarization test"
    if probe.size.images < 128:
        return skipped(name, "The quick budget leaves it out.")
    rows, missed, lucky = [], [], []
    for row in range(min(_IMAGES, len(probe))):
        x = probe.x[row : row + 1].contiguous()
        readout = _readout(probe, x, row)
        if readout is None:
            continue
        label = torch.zeros(1, dtype=torch.int64, device=x.device)
        attack = APGD(loss="margin", steps=2 * probe.size.steps, **probe.threat.fields)
        result = attack.run(readout, x, label, seed=probe.case.seed + 1)
        rows.append(row)
        missed.append(not bool(result.success))
        with torch.no_grad():
            lucky.append(bool((readout(_points(probe, x, row, 1.0, 1)).argmax(1) == 1).any()))
    if not rows:
        return skipped(name, "No readout separates an edge point from the points inside.")
    count, total = sum(missed), len(rows)
    failed = torch.tensor([row for row, miss in zip(rows, missed, strict=True) if miss]).long()
    return Check(
        name,
        by_share(count, total, fail=0.2, warn=0, few=2),
        1 - count / total,
        f"APGD finds the adversarial image that exists around {total - count} of {total} images, "
        f"{_INSIDE} random points find it around {sum(lucky)}.",
        "The attack fails where an adversarial image is known to exist: the gradients are masked.",
        tuple(probe.indices[failed.to(probe.indices.device)].tolist()),
    )


class _Readout(nn.Module):
    """Scores (N, 2) by one direction of the model's standardised outputs."""

    def __init__(
        self, model: nn.Module, mean: Tensor, scale: Tensor, way: Tensor, edge: Tensor
    ) -> None:
        super().__init__()
        self.model, self.mean, self.scale, self.way, self.edge = model, mean, scale, way, edge

    def forward(self, x: Tensor) -> Tensor:
        outputs = (_outputs(self.model, x) - self.mean) / self.scale
        over = outputs @ self.way - self.edge
        return torch.stack([-over, over], 1)


@torch.no_grad()
def _readout(probe: Probe, x: Tensor, row: int) -> nn.Module | None:
    """Return a readout under which one edge point alone is beyond all points inside."""
    model = probe.model
    inner = torch.cat([x, _points(probe, x, row, 0.5, 0)])
    # The point on the edge that the outputs separate best.
    edge = _points(probe, x, row, 1.0, 2)
    probe.threat.project(edge.add_((edge - x) * 1e6), x.expand_as(edge))
    inside, outside = (_outputs(model, points).double() for points in (inner, edge))
    mean, scale = inside.mean(0), inside.std(0).clamp_min(1e-9)
    inside, outside = (inside - mean) / scale, (outside - mean) / scale
    spread = inside.T @ inside / len(inside)
    ridge = 1e-3 * torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
    ways = torch.linalg.solve(spread + ridge, outside.T).T
    gaps = (ways * outside).sum(1) - (inside @ ways.T).amax(0)
    best = int(gaps.argmax())
    if not gaps[best] > 0:
        return None
    way = ways[best]
    limit = (way * outside[best]).sum() - gaps[best] / 4
    numbers = (value.to(x.dtype) for value in (mean, scale, way, limit))
    return _Readout(model, *numbers)


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    scores: Tensor = model(in_its_dtype(model, x))
    return scores


def _points(probe: Probe, x: Tensor, row: int, share: float, kind: int) -> Tensor:
    """Return random points in the ball of a share of eps around one image (1, ...)."""
    index = torch.full((_INSIDE,), row, device=x.device)
    number = torch.arange(_INSIDE, device=x.device) + kind * _INSIDE
    x0 = x.expand(_INSIDE, *x.shape[1:])
    return probe.threat.draw(x0, probe.case.seed, index, number, share=share)
