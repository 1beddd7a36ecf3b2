"""Robust accuracy of one classifier: the worst case over many attacks."""

from .evaluation import evaluate
from .results import Evaluation
from .threat_model import ThreatModel

__all__ = ["Evaluation", "ThreatModel", "evaluate"]
