"""Kernels as PyTorch operations, each beside its pure-PyTorch reference ``*_ref``."""

from .conv_spectrum_op import conv_spectrum, conv_spectrum_ref
from .cw_step_op import CwRows, cw_step_, cw_step_ref_
from .decode_op import decode, decode_ref
from .deepfool_op import deepfool_, deepfool_ref_
from .head_op import head, head_ref, tanh_mse, tanh_mse_ref
from .lbfgs_op import lbfgs_direction, lbfgs_direction_ref
from .random_start_op import random_start_, random_start_ref_
from .square_op import SquareRows, square_, square_ref_
from .step_op import step, step_, step_ref_

__all__ = [
    "CwRows",
    "SquareRows",
    "conv_spectrum",
    "conv_spectrum_ref",
    "cw_step_",
    "cw_step_ref_",
    "decode",
    "decode_ref",
    "deepfool_",
    "deepfool_ref_",
    "head",
    "head_ref",
    "lbfgs_direction",
    "lbfgs_direction_ref",
    "random_start_",
    "random_start_ref_",
    "square_",
    "square_ref_",
    "step",
    "step_",
    "step_ref_",
    "tanh_mse",
    "tanh_mse_ref",
]
