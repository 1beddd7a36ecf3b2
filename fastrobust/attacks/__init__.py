"""Attacks: frozen dataclasses whose repr names a cell, a test and a table row."""

from .base import Attack, from_repr
from .lbfgs import LBFGS
from .result import AttackResult
from .sign import BIM, FGSM, MIM, PGD
from .targets import random_targets

__all__ = [
    "BIM",
    "FGSM",
    "LBFGS",
    "MIM",
    "PGD",
    "Attack",
    "AttackResult",
    "from_repr",
    "random_targets",
]
