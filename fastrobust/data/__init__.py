"""Data sets: images as float32 (N, C, H, W) in [0, 1], labels as int64, whatever the source."""

from .dataset import DataSet
from .sources import NAMES, load

__all__ = ["NAMES", "DataSet", "load"]
