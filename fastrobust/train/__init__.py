"""Training: one loop for every head."""

from ..utils.text import slug
from .recipes import MODEL_NAMES, MODELS, TrainConfig, default_config
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
