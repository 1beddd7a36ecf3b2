"""Robust accuracy of one classifier: the worst case over many attacks."""

from .evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
