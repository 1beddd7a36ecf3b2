"""Measure how robust a classifier really is, fast.

Import as ``import fastrobust as fr``. The kernels, heads and attacks need torch and numpy alone;
data sets, training, sweeps and reports need the ``paper`` extra and load on first use.
"""

import importlib
from typing import Any

from . import attacks, engine, heads, models, ops, spectral
from .build import build_info
from .classifier import Classifier
from .codebook import Codebook
from .errors import CheckpointError, StoreError

__version__ = "0.1.0"

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
]

# `evaluate` is a function of the module evaluation; the others are modules.
_ON_FIRST_USE = ("checkpoint", "data", "plans", "presets", "report", "sweep", "train")


def __getattr__(name: str) -> Any:
    """Import what needs the ``paper`` extra when it is first named."""
    if name == "evaluate":
        return importlib.import_module(f"{__name__}.evaluation").evaluate
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
