"""Checks that say when not to believe a robust accuracy."""

from .case import Case, Check
from .checks import CHECKS, inspect

__all__ = ["CHECKS", "Case", "Check", "inspect"]
