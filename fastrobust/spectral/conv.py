"""Singular values and norms of convolutions as linear maps of images."""

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from .fourier import Pair, Torus, pair, torus
from .lanczos import Norm, zero_padded
from .values import all_values, expanded, largest

__all__ = ["Spectra", "conv_norm", "conv_norms", "conv_singular_values", "conv_spectra"]


class Spectra(NamedTuple):
    """Singular values of many convolutions, and how they were found.

    Attributes:
        values: a 1-D tensor for each convolution, descending.
        methods: of each convolution "one svd" (of a single tap, as 1x1 kernels have), "kernel"
            (Gram matrices by the kernel, up to 256 channels on the smaller side, on a GPU 32) or
            "gram" (by torch); "kernel in float64" or "svd" where these would lose the smallest
            values: in float32 if one is below 1/30 of the largest, or the matrices are nearly
            square (7:10), in float64 below 1e-6.
    """

    values: list[Tensor]
    methods: list[str]

    @property
    def fallbacks(self) -> int:
        """How many convolutions asked for more care than Gram matrices in their own dtype take."""
        return sum(method in ("kernel in float64", "svd") for method in self.methods)


@overload
def conv_singular_values(
    weight: Tensor, input_size: Pair, stride: Pair = 1, dilation: Pair = 1, groups: int = 1
) -> Tensor: ...
@overload
def conv_singular_values(
    weight: Sequence[Tensor], input_size: Any, stride: Any = 1, dilation: Any = 1, groups: Any = 1
) -> list[Tensor]: ...
def conv_singular_values(
    weight: Tensor | Sequence[Tensor],
    input_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    groups: Any = 1,
) -> Tensor | list[Tensor]:
    """Find all singular values of a convolution with circular padding.

    Args:
        weight: (c_out, c_in / groups, height, width), float32 or float64; or a list of them, which
            are worked on together. With a list, every other argument may be a list too,
            with one entry for each weight.
        input_size: (height, width) of the input, or one number for both.
        stride: as in ``torch.nn.Conv2d``; must divide the input's size.
        dilation: as in ``torch.nn.Conv2d``.
        groups: as in ``torch.nn.Conv2d``.

    Returns:
        1-D, descending, each as often as it occurs: as many as the smaller side of the matrix of
        the linear map, (c_out, H / stride, W / stride) by (c_in, H, W). A list of them for a list.

    Raises:
        ValueError: a weight is not 4-D or not finite, a stride does not divide the input.
        TypeError: a dtype is wrong.

    Example:
        >>> import torch, fastrobust as fr
        >>> shift = torch.zeros(1, 1, 3, 3)
        >>> shift[0, 0, 0, 2] = 1
        >>> fr.spectral.conv_singular_values(shift, 2)
        tensor([1., 1., 1., 1.])
    """
    if isinstance(weight, Sequence):
        return conv_spectra(weight, input_size, stride, dilation, groups).values
    return conv_spectra([weight], [input_size], [stride], [dilation], [groups]).values[0]


def conv_spectra(
    weights: Sequence[Tensor], input_size: Any, stride: Any = 1, dilation: Any = 1, groups: Any = 1
) -> Spectra:
    """Find what :func:`conv_singular_values` finds, and say how each convolution was done.

    Args:
        weights: list of weights.
        input_size: as there, like the others one for all or a list with one for each.
        stride: as there.
        dilation: as there.
        groups: as there.

    Example:
        >>> import torch, fastrobust as fr
        >>> fr.spectral.conv_spectra([torch.ones(2, 1, 1, 1), torch.ones(1, 1, 3, 3)], 3).methods
        ['one svd', 'kernel in float64']
    """
    with torch.no_grad():
        tori = _tori(weights, input_size, stride, dilation, groups)
    values, methods = all_values(tori)
    return Spectra([expanded(f, t) for f, t in zip(values, tori, strict=True)], methods)


def _tori(weights: Sequence[Tensor], *arguments: Any) -> list[Torus]:
    """Return each weight's torus; an argument that is a list of as many is one for each."""
    per_weight = []
    for argument, name in zip(
        arguments, ("input_size", "stride", "dilation", "groups"), strict=True
    ):
        if isinstance(argument, list) and len(argument) != len(weights):
            raise ValueError(
                f"{name} must be one for all or a list of {len(weights)}, one for each weight, "
                f"got a list of {len(argument)}"
            )
        per_weight.append(argument if isinstance(argument, list) else [argument] * len(weights))
    return [torus(w, *each) for w, *each in zip(weights, *per_weight, strict=True)]


def conv_norm(
    weight: Tensor,
    input_size: Pair,
    stride: Pair = 1,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    padding: str = "circular",
    bound: str = "exact",
    zeros: Pair | None = None,
    details: bool = False,
) -> Tensor | Norm:
    """Find the largest singular value of a convolution, differentiable in its weight.

    With zeros around the input the map is a part of the circular one on a larger input, by
    height - 1 and width - 1 of the kernel: ``bound="upper"`` is the norm of that, never below the
    exact one. ``bound="exact"`` asks the convolution itself, by Lanczos' method in float64, and is
    a norm |A v| / |v|: never above it.

    Args:
        weight: (c_out, c_in / groups, height, width), float32 or float64.
        input_size: (height, width) of the input, or one number for both.
        stride: as in ``torch.nn.Conv2d``; must divide the input's size if padding is circular.
        dilation: as in ``torch.nn.Conv2d``.
        groups: as in ``torch.nn.Conv2d``.
        padding: "circular" or "zeros".
        bound: "exact" or "upper"; the same for circular padding.
        zeros: rows and columns of zeros on each side, where padding is "zeros"; by default half of
            what keeps the size at stride 1, rounded down. The upper bound holds for any number.
        details: return a `Norm` with the norm, its residual, an upper bound and the steps taken.

    Returns:
        The norm, a single number in the dtype of `weight`, with a gradient where the largest
        singular value is simple; or a `Norm`.

    Raises:
        ValueError: a word is unknown, or as in :func:`conv_singular_values`.
        TypeError: a dtype is wrong.

    Warns:
        UserWarning: Lanczos' method ended with a residual above 1e-6 of the norm.

    Example:
        >>> import torch, fastrobust as fr
        >>> mean = torch.full((1, 1, 3, 3), 1 / 9)
        >>> fr.spectral.conv_norm(mean, 8)
        tensor(1.)
        >>> norm = fr.spectral.conv_norm(mean, 8, padding="zeros", details=True)
        >>> bool(norm.value < norm.upper)
        True
    """
    for name, word, words in (
        ("padding", padding, ("circular", "zeros")),
        ("bound", bound, ("exact", "upper")),
    ):
        if word not in words:
            raise ValueError(f"{name} must be {' | '.join(words)}, got {word!r}")
    if padding == "circular":
        (value,) = largest([torus(weight, input_size, stride, dilation, groups)])
        return Norm(value, 0.0, value.detach(), 0) if details else value
    steps, spread = pair(stride, "stride"), pair(dilation, "dilation")
    size = pair(input_size, "input_size")
    torus(weight, 1, 1, dilation, groups)  # for its checks
    reach = [d * (k - 1) for d, k in zip(spread, weight.shape[2:], strict=True)]
    around = pair(zeros, "zeros", 0) if zeros is not None else (reach[0] // 2, reach[1] // 2)
    # A multiple of the stride, so that the outputs are among those on the torus.
    larger = [-(-(n + r) // s) * s for n, r, s in zip(size, reach, steps, strict=True)]
    (upper,) = largest([torus(weight, larger, stride, dilation, groups)])
    if bound == "upper":
        return Norm(upper, 0.0, upper.detach(), 0) if details else upper
    norm = zero_padded(weight, size, steps, spread, groups, around, upper.detach())
    return norm if details else norm.value


def conv_norms(
    weights: Sequence[Tensor], input_size: Any, stride: Any = 1, dilation: Any = 1, groups: Any = 1
) -> list[Tensor]:
    """Find the norm of each of many convolutions with circular padding; they are done together.

    Args:
        weights: list of weights, as in :func:`conv_norm`.
        input_size: as there, like the others one for all or a list with one for each.
        stride: as there.
        dilation: as there.
        groups: as there.

    Returns:
        A single number for each, differentiable as there.

    Example:
        >>> import torch, fastrobust as fr
        >>> fr.spectral.conv_norms([torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1, 1)], 4)
        [tensor(9.), tensor(1.)]
    """
    return largest(_tori(weights, input_size, stride, dilation, groups))
