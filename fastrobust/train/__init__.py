"""Training: one loop for every classifier."""

from ..utils.text import slug
from .classifiers import MODEL_NAMES, MODELS
from .recipes import TrainConfig, default_config
from .training import augment, build, one_cycle, train

__all__ = [
    "MODELS",
    "MODEL_NAMES",
    "TrainConfig",
    "augment",
    "build",
    "default_config",
    "one_cycle",
    "slug",
    "train",
]
