"""The context of a run: its plan, its folder, the data files and the device."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import data
from ..data.dataset import SPLITS, DataSet
from . import folder
from .plan import Plan


@dataclass(frozen=True)
class RunContext:
    """A plan, and where it runs; picklable, for helper processes.

    Attributes:
        plan: What to measure.
        out_dir: The run folder.
        data_root: Where the data files are, as ``data.load`` takes it.
        device: Where to compute.
    """

    plan: Plan
    out_dir: str | os.PathLike[str]
    data_root: str | os.PathLike[str] | None = None
    device: str | torch.device = "cpu"

    def load_data(self, splits: Collection[str] = SPLITS) -> DataSet:
        """Load the plan's data set, or only some of its splits."""
        return data.load(self.plan.data_set, self.data_root, splits)

    def checkpoint_path(self, model_name: str) -> Path:
        """Return where the run folder keeps a classifier's checkpoint."""
        return folder.checkpoint_path(self.out_dir, model_name)
