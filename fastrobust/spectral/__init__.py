"""Singular values of convolutions, and Lipschitz bounds of networks."""

from .bounds import LipschitzReport, lipschitz
from .conv import Spectra, conv_norm, conv_norms, conv_singular_values, conv_spectra

__all__ = [
    "LipschitzReport",
    "Spectra",
    "conv_norm",
    "conv_norms",
    "conv_singular_values",
    "conv_spectra",
    "lipschitz",
]
