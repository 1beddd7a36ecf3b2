"""Many attacks on many classifiers, their images batched together."""

from .runner import Outcome, run

__all__ = ["Outcome", "run"]
