"""Attacks: frozen dataclasses whose repr names a cell, a test and a table row."""

from .apgd import APGD
from .base import Attack, from_repr
from .cwl2 import CWL2, ModifiedCWL2
from .deepfool import DeepFool
from .fab import FAB
from .lbfgs import LBFGS
from .result import AttackResult
from .sign import BIM, FGSM, MIM, PGD
from .square import Square
from .targets import random_targets

__all__ = [
    "APGD",
    "BIM",
    "CWL2",
    "FAB",
    "FGSM",
    "LBFGS",
    "MIM",
    "ModifiedCWL2",
    "PGD",
    "Attack",
    "AttackResult",
    "DeepFool",
    "Square",
    "from_repr",
    "random_targets",
]
