"""Norms and Lipschitz bounds of a run's classifiers, computed from its checkpoints and images."""

from typing import Any

import torch

from ..models import checkpoint
from ..runs.folder import checkpoint_path
from ..spectral.bounds import LipschitzReport, lipschitz
from ..train.classifiers import MODEL_NAMES
from .norm_tables import Reports
from .results import Run

IMAGES = 32  # clean images that are measured: the report stays a matter of seconds
EPS = (0.5,)  # L2 radius of the inequality's attack: the usual one for images of this size


def measure_norms(run: Run) -> Reports:
    """Return the reports of the classifiers in a run folder, by name.

    There are none before the folder holds images, whose size is needed. Lower bounds and radii are
    measured at its clean images.

    Raises:
        CheckpointError: A checkpoint is damaged or foreign.
        StoreError: Images are.
    """
    stored = [r for r in run.results if run.folder.images_path(r.key).exists()]
    paths = {name: checkpoint_path(run.folder.root, name) for name in run.plan.models}
    paths = {name: path for name, path in paths.items() if path.exists()}
    if not stored or not paths:
        return {}
    clean = [result for result in stored if result.cell.attack is None]
    first = (clean or stored)[0]
    images = run.folder.read_images(first.key)["adversarial"][:IMAGES]
    x, y = torch.tensor(images), torch.tensor(first.rows["label"][: len(images)])
    seen: dict[str, Any] = {"x": x, "y": y, "eps": EPS} if clean else {}
    size = x.shape[2], x.shape[3]
    return in_order({
        name: lipschitz(checkpoint.load(path), size, **seen) for name, path in paths.items()
    })  # fmt: skip


def in_order(reports: Reports) -> dict[str, LipschitzReport]:
    """Return the reports with the paper's three classifiers first."""
    first = [name for name in MODEL_NAMES if name in reports]
    return {name: reports[name] for name in dict.fromkeys([*first, *reports])}
