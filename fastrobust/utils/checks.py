"""Checks of what a user hands in; every message says the wish, then the fact."""

import math

import torch
from torch import Tensor


def images(x: object, name: str = "x") -> Tensor:
    """Return `x` if it is a batch of finite floating-point images (N, ...), else raise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be floating point with pixels in [0, 1], got {x.dtype}; "
            f"for 8-bit images use {name}.float() / 255"
        )
    if x.dim() < 2:
        raise ValueError(f"{name} must have shape (N, ...), got {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got NaN or inf")
    return x


def like(images_: object, x: Tensor, name: str) -> Tensor:
    """Return finite images of x's shape, dtype and device, one for each, else raise."""
    like_x = images(images_, name)
    if like_x.shape != x.shape or like_x.dtype != x.dtype or like_x.device != x.device:
        raise ValueError(
            f"{name} must be like x, {tuple(x.shape)} {x.dtype} on {x.device}, got "
            f"{tuple(like_x.shape)} {like_x.dtype} on {like_x.device}"
        )
    return like_x.detach()


def labels(
    y: object, count: int, num_classes: int, device: torch.device, name: str = "y"
) -> Tensor:
    """Return `y` as int64 if it holds `count` class indices below `num_classes`, else raise."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of class indices, got {type(y).__name__}")
    if y.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise TypeError(f"{name} must hold integer class indices, got {y.dtype}")
    if tuple(y.shape) != (count,):
        raise ValueError(f"{name} must have shape ({count},), one per image, got {tuple(y.shape)}")
    if y.device != device:
        raise RuntimeError(f"{name} must be on {device} like the images, got {y.device}")
    if count:
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name} must lie in [0, {num_classes}), got {low} to {high}")
    return y.long()


def per_row(
    value: float | Tensor,
    like: Tensor,
    name: str,
    *,
    positive: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return `value` as (N,), one finite number per row, in the dtype and device of `like`.

    The numbers are >= 0, or > 0 where they must be `positive`; `dtype` takes the place of like's.
    """
    dtype = dtype or like.dtype
    count, least = len(like), "> 0" if positive else ">= 0"
    if isinstance(value, Tensor) and value.dim() > 0:
        if tuple(value.shape) != (count,):
            raise ValueError(
                f"{name} must be a number or have shape ({count},), got {tuple(value.shape)}"
            )
        if value.device != like.device:
            raise RuntimeError(f"{name} must be on {like.device}, got {value.device}")
        rows = value.detach().to(dtype)
        bad = rows[~(torch.isfinite(rows) & (rows > 0 if positive else rows >= 0))]
        if len(bad):
            raise ValueError(f"{name} must be finite and {least} in every row, got {float(bad[0])}")
        return rows
    number = float(value)
    if not (math.isfinite(number) and (number > 0 if positive else number >= 0)):
        raise ValueError(f"{name} must be finite and {least}, got {number}")
    return torch.full((count,), number, dtype=dtype, device=like.device)
