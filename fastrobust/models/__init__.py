"""Networks, heads, codebooks, and the classifiers that they make."""

import importlib
from typing import Any

from .classifier import Classifier
from .codebook import Codebook
from .networks import DenseNet, architecture, by_name, densenet

__all__ = ["Classifier", "Codebook", "DenseNet", "architecture", "by_name", "densenet"]


def __getattr__(name: str) -> Any:
    # Trained classifiers need the `paper` extra: imported when first named.
    if name == "pretrained":
        return importlib.import_module(".zoo", __name__).pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
