"""Singular values and norms of convolutions as linear maps of images."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from .lanczos import Norm, zero_padded
from .ops.conv_spectrum import WIDEST, conv_spectrum, half_plane
from .torus import Pair, Torus, pair, torus

__all__ = ["Spectra", "conv_norm", "conv_norms", "conv_singular_values", "conv_spectra"]

# A Gram matrix squares the condition: an error e of its eigenvalues, relative to the largest, is
# one of e / (2 s) in a singular value that is s times the largest. In float32, where e is some
# 5e-7, that is below 1e-5 of the largest if s > 1 / 30; other convolutions are done again in
# float64, which gives even a 0 to 1e-7 of the largest. In float64 itself a convolution with values
# smaller than 1e-6 times the largest is left to an SVD.
_LEAST = {torch.float32: 1 / 30, torch.float64: 1e-6}
_MOST_TAPS = 64  # of the kernel, whose work grows with their square


class Spectra(NamedTuple):
    """Singular values of many convolutions, and how they were found.

    Attributes:
        values: a 1-D tensor for each convolution, descending.
        methods: of each convolution "one svd" (of a single tap, as 1x1 kernels have), "jacobi"
            (Gram matrices by the kernel, for up to 32 channels on the smaller side), "gram" (by
            torch), either "in float64" where float32 would lose the smallest values, or "svd" where
            float64 would.
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
        >>> fr.spectral.conv_spectra([torch.ones(2, 1, 1, 1), torch.ones(1, 1, 3, 3)], 3).methods
        ['one svd', 'jacobi in float64']
    """
    with torch.no_grad():
        tori = _tori(weights, input_size, stride, dilation, groups)
    found, methods = _all_values(tori)
    return Spectra([_expanded(f, t) for f, t in zip(found, tori, strict=True)], methods)


def _all_values(tori: list[Torus]) -> tuple[list[Tensor], list[str]]:
    """Return (groups, frequencies, smaller side) values of each, and how they were found."""
    found, methods = _by_gram(tori)
    for precise in (torch.float32, torch.float64):
        again = [
            i
            for i, (values, method) in enumerate(zip(found, methods, strict=True))
            if tori[i].weight.dtype == precise
            and method != "one svd"
            and values.min() < _LEAST[precise] * values.max()
        ]
        if precise == torch.float64:
            for i in again:
                found[i], methods[i] = torch.linalg.svdvals(tori[i].matrices()), "svd"
        elif again:
            doubled = [replace(tori[i], weight=tori[i].weight.double()) for i in again]
            for i, values, method in zip(again, *_by_gram(doubled), strict=True):
                found[i], methods[i] = values.float(), f"{method} in float64"
    return found, methods


def _by_gram(tori: list[Torus]) -> tuple[list[Tensor], list[str]]:
    """Do what `_all_values` does, without a look at the condition."""
    found: dict[int, Tensor] = {}
    methods = {}
    batches: dict[Any, dict[Any, list[int]]] = {}
    for i, each in enumerate(tori):
        w = each.weight
        if len(each.places) == 1:
            found[i], methods[i] = _one_tap(each), "one svd"
        elif min(each.shape) <= WIDEST and len(each.places) <= _MOST_TAPS:
            alike = batches.setdefault((w.dtype, w.device), {})
            alike.setdefault((w.shape, each.places, each.size), []).append(i)
        else:
            found[i], methods[i] = _gram(each), "gram"
    for alike in batches.values():
        stacks = [torch.cat([tori[i].weight for i in members]) for members in alike.values()]
        all_values = conv_spectrum(stacks, [k[1] for k in alike], [k[2] for k in alike])
        for members, values in zip(alike.values(), all_values, strict=True):
            for i, mine in zip(members, values.chunk(len(members)), strict=True):
                found[i], methods[i] = mine, "jacobi"
    return [found[i] for i in range(len(tori))], [methods[i] for i in range(len(tori))]


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


@lru_cache(maxsize=256)
def _whole_plane(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return each frequency of `half_plane` as often as its values occur."""
    often = [(i,) * often for i, (*_, often) in enumerate(half_plane(*size))]
    return torch.tensor(list(chain.from_iterable(often)), device=device)


def _expanded(values: Tensor, each: Torus) -> Tensor:
    """Return (groups, frequencies, smaller side) values as often as they occur, descending."""
    every = values[:, _whole_plane(each.size, values.device)].flatten()
    if every.is_cuda:
        return every.sort(descending=True).values
    # Many times faster than torch's sort, which finds the order as well.
    return torch.from_numpy(np.sort(every.numpy())[::-1].copy())


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
        (value,) = _largest([torus(weight, input_size, stride, dilation, groups)])
        return Norm(value, 0.0, value.detach(), 0) if details else value
    steps, spread = pair(stride, "stride"), pair(dilation, "dilation")
    size = pair(input_size, "input_size")
    torus(weight, 1, 1, dilation, groups)  # for its checks
    reach = [d * (k - 1) for d, k in zip(spread, weight.shape[2:], strict=True)]
    around = pair(zeros, "zeros", 0) if zeros is not None else (reach[0] // 2, reach[1] // 2)
    # A multiple of the stride, so that the outputs are among those on the torus.
    larger = [-(-(n + r) // s) * s for n, r, s in zip(size, reach, steps, strict=True)]
    (upper,) = _largest([torus(weight, larger, stride, dilation, groups)])
    if bound == "upper":
        return Norm(upper, 0.0, upper.detach(), 0) if details else upper
    found = zero_padded(weight, size, steps, spread, groups, around, upper.detach())
    return found if details else found.value


def conv_norms(
    weights: Sequence[Tensor],
    input_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    groups: Any = 1,
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
    return _largest(_tori(weights, input_size, stride, dilation, groups))


def _largest(tori: list[Torus]) -> list[Tensor]:
    """Return the largest singular value of each; its gradient is that of u^H A v at its place."""
    frozen = [replace(each, weight=each.weight.detach()) for each in tori]
    largest = []
    for each, still, values in zip(tori, frozen, _by_gram(frozen)[0], strict=True):
        group, frequency = divmod(int(values.amax(2).argmax()), values.shape[1])
        u, _, vh = torch.linalg.svd(still.matrix(group, frequency), full_matrices=False)
        a = each.matrix(group, frequency)
        largest.append((u[:, 0].conj() @ a @ vh[0].conj()).real)
    return largest
