"""Measures the cells of a plan: ``runner.py`` runs the plan, ``measure.py`` computes a cell."""

from .runner import Outcome, run

__all__ = ["Outcome", "run"]
