"""The binarization test: an attack must find what is known to be there.

Zimmermann, Brendel, Tramer and Carlini, "Increasing Confidence in Adversarial Robustness
Evaluations", arXiv 2206.13991: around an image a linear readout of the model's outputs is made that
tells one point on the edge of the ball from points inside. An attack on this two-class model that
does not get to the other class fails for its own reasons, since an adversarial image is known.
"""

import torch
from torch import Tensor, nn

from ...attacks import APGD
from ...ops.random_start_op import launch_start
from ...ops.step_op import into_ball
from ...utils.modules import in_its_dtype
from .case import Check, Probe, several, skipped

_IMAGES, _INSIDE = 16, 200  # images that get a readout, and points inside of the ball of each


def binarized(probe: Probe) -> Check:
    """Attack the readouts of some images."""
    name = "binarization test"
    if probe.effort.images < 128:
        return skipped(name, "A quick look leaves it out.")
    places, missed, lucky = [], [], []
    for row in range(min(_IMAGES, len(probe))):
        x = probe.x[row : row + 1].contiguous()
        readout = _readout(probe, x, row)
        if readout is None:
            continue
        label = torch.zeros(1, dtype=torch.int64, device=x.device)
        attack = APGD(loss="margin", steps=2 * probe.effort.steps, **probe.ball)
        found = attack.run(readout, x, label, seed=probe.case.seed + 1)
        places.append(row)
        missed.append(not bool(found.success))
        with torch.no_grad():
            lucky.append(bool((readout(_points(probe, x, row, 1.0, 1)).argmax(1) == 1).any()))
    if not places:
        return skipped(name, "No point of a ball's edge stands out by the model's outputs.")
    count = sum(missed)
    rows = torch.tensor([row for row, miss in zip(places, missed, strict=True) if miss]).long()
    return Check(
        name,
        "fail" if several(count, len(places), 0.2) else "warn" if count > 1 else "pass",
        1 - count / len(places),
        f"APGD finds a way that is there around {len(places) - count} of {len(places)} images, "
        f"{_INSIDE} random points around {sum(lucky)}.",
        "The attack fails where success is known to be possible: its gradients are masked.",
        tuple(probe.places[rows.to(probe.places.device)].tolist()),
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
    # Of several points on the edge the one that stands out most.
    edge = _points(probe, x, row, 1.0, 2)
    into_ball(
        edge.add_((edge - x) * 1e6), x.expand_as(edge).contiguous(),
        edge.new_full((len(edge),), probe.case.eps), probe.case.norm, probe.case.clip,
    )  # fmt: skip
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
    x0 = x.expand(_INSIDE, *x.shape[1:]).contiguous()
    index = torch.full((_INSIDE,), row, device=x.device)
    number = torch.arange(_INSIDE, device=x.device) + kind * _INSIDE
    eps = x0.new_full((_INSIDE,), share * probe.case.eps)
    box = probe.case.clip or (None, None)
    seed = probe.case.seed
    return launch_start(torch.empty_like(x0), x0, probe.case.norm, eps, seed, index, number, *box)
