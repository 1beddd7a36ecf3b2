"""Nearest target vector of each row. The simplest op here: copy it to add another."""

import torch
from torch import Tensor

from .extension import kernels
from .registry import registered


def launch_decode(u: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Find the target vector nearest to each row of output units.

    The decision is ``argmax_k u.Y_k - |Y_k|^2 / 2``, ties to the lowest index, summed in one fixed
    order, so that it is the same in every batch and on every device. NaN counts as the greatest
    score, as in ``torch.argmax``: a row that holds NaN decodes to class 0 with distance NaN.

    Args:
        u: (N, d) output units, float32 or float64.
        vectors: (K, d) target vectors Y, same dtype and device.

    Returns:
        (N,) int64 index of the nearest vector and (N,) squared distance to it.

    Raises:
        ValueError: a shape is wrong or `vectors` is empty.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> fr.ops.decode(torch.tensor([[0.9, 0.2]]), torch.eye(2))[0]
        tensor([0])
    """
    index = torch.empty(u.shape[:1], dtype=torch.int64, device=u.device)
    distance = u.new_empty(u.shape[:1])
    kernels.decode(u, vectors, index, distance)
    return index, distance


decode = registered(
    "decode",
    launch_decode,
    fake=lambda u, vectors: (u.new_empty(u.shape[:1], dtype=torch.int64), u.new_empty(u.shape[:1])),
)


def decode_ref(u: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Do what :func:`decode` does in plain PyTorch."""
    index = (u @ vectors.T - vectors.square().sum(1) / 2).argmax(1)
    return index, (u - vectors[index]).square().sum(1)
