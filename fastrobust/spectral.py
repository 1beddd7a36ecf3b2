"""Singular values and norms of convolutions as linear maps of images."""

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from .lanczos import Norm, zero_padded
from .torus import Pair, Torus, half_plane, pair, torus

__all__ = ["Spectra", "conv_norm", "conv_singular_values", "conv_spectra"]

# A Gram matrix squares the condition: an error e of its eigenvalues, relative to the largest, is
# one of e / (2 s) in a singular value that is s times the largest. With e about 1e-15 in float64
# that is below 1e-9 where s > 1e-6; in float32 below 1e-5 where s > 1 / 30. A convolution with
# smaller values is left to an SVD.
_LEAST = {torch.float32: 1 / 30, torch.float64: 1e-6}


class Spectra(NamedTuple):
    """Singular values of many convolutions, and how they were found.

    Attributes:
        values: a 1-D tensor for each convolution, descending.
        methods: of each convolution "gram" or "svd".
    """

    values: list[Tensor]
    methods: list[str]


@overload
def conv_singular_values(
    weight: Tensor, input_size: Pair, stride: Pair = 1, dilation: Pair = 1, groups: int = 1
) -> Tensor: ...
@overload
def conv_singular_values(
    weight: Sequence[Tensor],
    input_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    groups: Any = 1,
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
            are worked on together. Of a list every other argument may be a list too, with one entry
            for each weight.
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
    weights: Sequence[Tensor],
    input_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    groups: Any = 1,
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
        >>> fr.spectral.conv_spectra([torch.ones(1, 1, 3, 3)], 3).methods
        ['svd']
    """
    tori = _tori(weights, input_size, stride, dilation, groups)
    values, methods = [], []
    for each in tori:
        if len(each.places) == 1:
            found, method = _one_tap(each), "svd"
        else:
            found, method = _gram(each), "gram"
            if found.min() < _LEAST[found.dtype] * found.max():
                found, method = torch.linalg.svdvals(each.matrices()), "svd"
        values.append(_expanded(found, each))
        methods.append(method)
    return Spectra(values, methods)


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
    return [
        torus(w.detach() if isinstance(w, Tensor) else w, *each)
        for w, *each in zip(weights, *per_weight, strict=True)
    ]


def _one_tap(each: Torus) -> Tensor:
    """Return the singular values of a convolution whose matrices differ by a phase alone."""
    values = torch.linalg.svdvals(each.weight[..., 0])
    return values.unsqueeze(1).expand(-1, len(half_plane(*each.size)), -1)


def _gram(each: Torus) -> Tensor:
    """Return (groups, frequencies, smaller side) values by the Gram matrix of the smaller side."""
    largest = each.weight.abs().max().clamp_min(torch.finfo(each.weight.dtype).tiny)
    matrices = each.matrices() / largest  # whose squares neither overflow nor vanish
    matrices = matrices if each.shape[0] <= each.shape[1] else matrices.mT
    return torch.linalg.eigvalsh(matrices @ matrices.mH).clamp_min(0).sqrt() * largest


def _expanded(values: Tensor, each: Torus) -> Tensor:
    """Return (groups, frequencies, smaller side) values as often as they occur, descending."""
    counts = torch.tensor([n for *_, n in half_plane(*each.size)], device=values.device)
    ordered, index = values.flatten().sort(descending=True)
    often = counts[index // values.shape[2] % values.shape[1]]
    return ordered.repeat_interleave(often)


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
        value = _largest(torus(weight, input_size, stride, dilation, groups))
        return Norm(value, 0.0, value.detach(), 0) if details else value
    steps, spread = pair(stride, "stride"), pair(dilation, "dilation")
    size = pair(input_size, "input_size")
    torus(weight, 1, 1, dilation, groups)  # for its checks
    reach = [d * (k - 1) for d, k in zip(spread, weight.shape[2:], strict=True)]
    around = pair(zeros, "zeros", 0) if zeros is not None else (reach[0] // 2, reach[1] // 2)
    # A multiple of the stride, so that the outputs are among those on the torus.
    larger = [-(-(n + r) // s) * s for n, r, s in zip(size, reach, steps, strict=True)]
    upper = _largest(torus(weight, larger, stride, dilation, groups))
    if bound == "upper":
        return Norm(upper, 0.0, upper.detach(), 0) if details else upper
    found = zero_padded(weight, size, steps, spread, groups, around, upper.detach())
    return found if details else found.value


def _largest(each: Torus) -> Tensor:
    """Return the largest singular value; its gradient is that of u^H A v at its frequency."""
    with torch.no_grad():
        frozen = Torus(each.weight.detach(), each.places, each.size)
        values = _one_tap(frozen) if len(each.places) == 1 else _gram(frozen)
        group, frequency = divmod(int(values.amax(2).argmax()), values.shape[1])
        u, _, vh = torch.linalg.svd(frozen.matrix(group, frequency), full_matrices=False)
    a = each.matrix(group, frequency)
    return (u[:, 0].conj() @ a @ vh[0].conj()).real


def __getattr__(name: str) -> Any:
    """Show what is made of norms, and imports them from here: ``fr.spectral.lipschitz``."""
    if name in ("LipschitzReport", "lipschitz"):
        from . import lipschitz

        return getattr(lipschitz, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
