"""The kernels as PyTorch operations, each beside its pure-PyTorch reference.

Every module holds, in this order: the public wrapper, the registered operation, its fake
(shapes only), its autograd, the unregistered fast entry ``launch_*`` and the reference ``*_ref``.
"""

from .conv_spectrum import conv_spectrum, conv_spectrum_ref
from .cw_step import CwRows, cw_step_, cw_step_ref_
from .decode import decode, decode_ref
from .deepfool import deepfool_, deepfool_ref_
from .head import head, head_ref, tanh_mse, tanh_mse_ref
from .lbfgs import lbfgs_direction, lbfgs_direction_ref
from .square import SquareRows, square_, square_ref_
from .start import random_start_, random_start_ref_
from .step import step, step_, step_ref_

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
