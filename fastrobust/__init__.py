"""Measure how robust a classifier is, fast.

Import as ``import fastrobust as fr``. Kernels, heads, attacks and spectra need torch and numpy
alone. The other names need the ``paper`` extra and are imported on first use.
"""

import importlib
from typing import Any

from . import attacks, engine, models, ops, spectral
from ._version import __version__
from .models import heads
from .models.classifier import Classifier
from .models.codebook import Codebook
from .ops.building import build_info
from .utils.errors import CheckpointError, StoreError

# Where each name is that is imported on first use.
_ON_FIRST_USE = {
    "checkpoint": "models.checkpoint",
    "data": "data",
    "evaluate": "evaluation",
    "plans": "runs.plan",
    "presets": "paper.presets",
    "report": "report",
    "sweep": "sweep",
    "train": "train",
}

__all__ = [
    "CheckpointError",
    "Classifier",
    "Codebook",
    "StoreError",
    "__version__",
    "attacks",
    "build_info",
    "engine",
    "heads",
    "models",
    "ops",
    "spectral",
    *_ON_FIRST_USE,
]


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_ON_FIRST_USE[name]}")
    return module.evaluate if name == "evaluate" else module


def __dir__() -> list[str]:
    return sorted(__all__)
