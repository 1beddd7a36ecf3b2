"""One step of DeepFool: to the nearest of an image's linearised decision boundaries."""

import torch
from torch import Tensor

from .extension import kernels
from .registry import registered

BEYOND = 1e-5  # added to every gap, to step over the boundary (cleverhans v2.1.0)


def launch_deepfool(
    x: Tensor,
    r: Tensor,
    x0: Tensor,
    slopes: Tensor,
    gaps: Tensor,
    live: Tensor | None = None,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> Tensor:
    """Add one step to r and put x at x0 + r, in place.

    Rival k is (|gap_k| + 1e-5) / |slope_k|_2 away; r goes as far along the slope of the nearest
    rival (the first of them, if several are), then x = x0 + r goes into [lo, hi], which leaves r as
    it is. A rival whose slope is zero (or whose distance is no finite number) is passed over; a row
    without any other keeps its x and r. A row depends on itself alone, bit for bit.

    Args:
        x: (N, ...) image at which the slopes were taken, float32 or float64, contiguous,
            overwritten.
        r: (N, ...) sum of the steps so far, contiguous, overwritten.
        x0: (N, ...) clean images.
        slopes: (N, K, ...) gradients of the gaps.
        gaps: (N, K) score of each rival less the highest score; their signs do not matter.
        live: (N,) bool, False for rows to be left alone; None for none such.
        lo: lower bound of a pixel, or None.
        hi: upper bound of a pixel, or None.

    Returns:
        (N,) bool, whether the row has moved.

    Raises:
        ValueError: a shape or value is wrong, or x or r is not contiguous or shares memory with
            another argument.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> x0, r = torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2)
        >>> x, slopes = x0.clone(), torch.tensor([[[0.0, 2.0], [1.0, 0.0]]])
        >>> fr.ops.deepfool_(x, r, x0, slopes, gaps=torch.tensor([[-0.5, -0.4]]))
        tensor([True])
        >>> x
        tensor([[0.5000, 0.7500]])
    """
    moved = x.new_empty(x.shape[:1], dtype=torch.bool)
    kernels.deepfool_(x, r, x0, slopes, gaps, live, moved, lo, hi)
    return moved


deepfool_ = registered(
    "deepfool_",
    launch_deepfool,
    fake=lambda x, *_: x.new_empty(x.shape[:1], dtype=torch.bool),
    mutates=("x", "r"),
)


def deepfool_ref_(
    x: Tensor,
    r: Tensor,
    x0: Tensor,
    slopes: Tensor,
    gaps: Tensor,
    live: Tensor | None = None,
    lo: float | None = 0.0,
    hi: float | None = 1.0,
) -> Tensor:
    """Do what :func:`deepfool_` does in plain PyTorch."""
    moved = x.new_zeros(x.shape[:1], dtype=torch.bool)
    if not gaps.numel():
        return moved
    norms = slopes.flatten(2).norm(dim=2)
    away = (gaps.abs() + BEYOND) / norms
    away = torch.where(away.isfinite() & norms.isfinite(), away, torch.inf)
    distance, nearest = away.min(1)
    moved = distance < torch.inf
    if live is not None:
        moved &= live
    rows = moved.nonzero().flatten()
    w = slopes.flatten(2)[rows, nearest[rows]] / norms[rows, nearest[rows], None]
    r[rows] += (distance[rows, None] * w).view_as(r[rows])
    low, high = -torch.inf if lo is None else lo, torch.inf if hi is None else hi
    x[rows] = (x0[rows] + r[rows]).clamp(low, high)
    return moved
