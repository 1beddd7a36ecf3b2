"""Networks: DenseNets as the paper trains them."""

import importlib
from typing import Any

from .densenet import DenseNet, architecture, by_name, densenet

__all__ = ["DenseNet", "architecture", "by_name", "densenet"]


def __getattr__(name: str) -> Any:
    """Show trained classifiers, which are made of networks: ``fr.models.pretrained``."""
    if name == "pretrained":
        return importlib.import_module("fastrobust.pretrained").pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
