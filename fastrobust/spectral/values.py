"""Ways to the singular values of a torus, from the cheapest that is good enough."""

from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.conv_spectrum_op import WIDEST, conv_spectrum, half_plane
from .fourier import Torus

# A Gram matrix squares the condition: an error e of its eigenvalues, relative to the largest, is
# one of e / (2 s) in a singular value that is s times the largest. In float32, where e is some
# 5e-7, that is below 1e-5 of the largest if s > 1 / 30; other convolutions are done again with more
# care. Gram matrices in float64 give even a 0 to 1e-7 of the largest, enough for float32; where
# float64 is asked for, a convolution with values below 1e-6 of the largest is left to an SVD.
_LEAST = {torch.float32: 1 / 30, torch.float64: 1e-6}
_SQUARE = 0.7  # smaller over larger side, from which on float32 is not tried
_MOST_TAPS = 64  # of the kernel, whose work grows with their square


def all_values(tori: list[Torus]) -> tuple[list[Tensor], list[str]]:
    """Return (groups, frequencies, smaller side) values of each, and how they were found."""
    ways = [_ways(each) for each in tori]
    values: dict[int, Tensor] = {}
    methods: dict[int, str] = {}
    left = list(range(len(tori)))
    while left:
        methods.update({i: ways[i].pop(0) for i in left})
        for method in sorted({methods[i] for i in left}):
            members = [i for i in left if methods[i] == method]
            values.update(zip(members, _run(method, [tori[i] for i in members]), strict=True))
        left = [i for i in left if ways[i] and _is_ill_conditioned(values[i])]
    return [values[i] for i in range(len(tori))], [methods[i] for i in range(len(tori))]


def _ways(each: Torus) -> list[str]:
    """List the methods for all values of a convolution, each for when the last is too coarse."""
    cheap, single = _cheap(each), each.weight.dtype == torch.float32
    if cheap == "one svd":
        return [cheap]
    # The smallest value of nearly square matrices is too small even if they are random.
    hopeless = single and min(each.shape) > _SQUARE * max(each.shape)
    return [
        *([] if hopeless else [cheap]),
        "kernel in float64" if cheap == "kernel" and single else "svd",
    ]


def _cheap(each: Torus) -> str:
    """Name the method that is fast and good enough for the largest value."""
    if len(each.places) == 1:
        return "one svd"
    widest = WIDEST.get(each.weight.device.type, 0)
    few = min(each.shape) <= widest and len(each.places) <= _MOST_TAPS
    return "kernel" if few else "gram"


def _is_ill_conditioned(values: Tensor) -> bool:
    return bool(values.min() < _LEAST[values.dtype] * values.max())


def _run(method: str, tori: list[Torus]) -> list[Tensor]:
    """Return (groups, frequencies, smaller side) values of each by one method."""
    if method == "kernel":
        return _by_kernel(tori)
    if method == "kernel in float64":
        doubled = [replace(each, weight=each.weight.double()) for each in tori]
        return [values.float() for values in _by_kernel(doubled)]
    alone = {"one svd": _one_svd, "gram": _gram, "svd": _svd}[method]
    return [alone(each) for each in tori]


def _by_kernel(tori: list[Torus]) -> list[Tensor]:
    """Do all that have one dtype and device in one call, those of one shape in one stack."""
    by_torus: dict[int, Tensor] = {}
    batches: dict[Any, dict[Any, list[int]]] = {}
    for i, each in enumerate(tori):
        w = each.weight
        alike = batches.setdefault((w.dtype, w.device), {})
        alike.setdefault((w.shape, each.places, each.size), []).append(i)
    for alike in batches.values():
        stacks = [torch.cat([tori[i].weight for i in members]) for members in alike.values()]
        results = conv_spectrum(stacks, [key[1] for key in alike], [key[2] for key in alike])
        for members, values in zip(alike.values(), results, strict=True):
            by_torus.update(zip(members, values.chunk(len(members)), strict=True))
    return [by_torus[i] for i in range(len(tori))]


def _one_svd(each: Torus) -> Tensor:
    """Return the singular values of a convolution whose matrices differ by a phase alone."""
    values = torch.linalg.svdvals(each.weight[..., 0])
    return values.unsqueeze(1).expand(-1, len(half_plane(*each.size)), -1)


def _svd(each: Torus) -> Tensor:
    return torch.linalg.svdvals(each.matrices())


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


def expanded(values: Tensor, each: Torus) -> Tensor:
    """Return (groups, frequencies, smaller side) values as often as they occur, descending."""
    every = values[:, _whole_plane(each.size, values.device)].flatten()
    if every.is_cuda:
        return every.sort(descending=True).values
    # Many times faster than torch's sort, which finds the order as well.
    return torch.from_numpy(np.sort(every.numpy())[::-1].copy())


def largest(tori: list[Torus]) -> list[Tensor]:
    """Return the largest singular value of each; its gradient is that of u^H A v at its place."""
    frozen = [replace(each, weight=each.weight.detach()) for each in tori]
    norms = []
    values_of = dict[int, Tensor]()
    for method in sorted({_cheap(each) for each in tori}):
        members = [i for i, each in enumerate(frozen) if _cheap(each) == method]
        values_of.update(zip(members, _run(method, [frozen[i] for i in members]), strict=True))
    for i, (each, still) in enumerate(zip(tori, frozen, strict=True)):
        values = values_of[i]
        if not each.weight.requires_grad:
            norms.append(values.max())
            continue
        group, frequency = divmod(int(values.amax(2).argmax()), values.shape[1])
        u, _, vh = torch.linalg.svd(still.matrix(group, frequency), full_matrices=False)
        a = each.matrix(group, frequency)
        norms.append((u[:, 0].conj() @ a @ vh[0].conj()).real)
    return norms
