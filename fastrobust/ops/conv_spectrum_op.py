"""Singular values of convolutions on a torus, at one frequency of each conjugate pair."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .extension import kernels

Places = tuple[tuple[int, int], ...]
Size = tuple[int, int]

WIDEST = {"cpu": 256, "cuda": 32}  # channels on the smaller side, by the kind of device
_LANES = 16  # frequencies that the kernel takes at a time


@lru_cache(maxsize=256)
def half_plane(rows: int, columns: int) -> tuple[tuple[int, int, int], ...]:
    """List frequencies (u, v, how often): one of each conjugate pair, whose values are the same."""
    frequencies = []
    for u in range(rows):
        for v in range(columns // 2 + 1):
            mirror = (-u % rows, -v % columns)
            if (u, v) <= mirror or mirror[1] > columns // 2:
                frequencies.append((u, v, 1 if (u, v) == mirror else 2))
    return tuple(frequencies)


def conv_spectrum(
    weights: Sequence[Tensor], places: Sequence[Places], sizes: Sequence[Size]
) -> list[Tensor]:
    """Find the singular values of convolutions of stride 1 with circular padding.

    All of them are done in one pass, by the eigenvalues of Gram matrices: an error of some 5e-7
    (float64: 1e-15) of the largest value, times how many times smaller a value is.

    Args:
        weights: each (P, a, b, taps), P convolutions between a and b channels, min(a, b) <= 256
            (on a GPU 32), float32 or float64, all of one dtype on one device.
        places: for each, the (row, column) of every tap.
        sizes: for each, (rows, columns) of the torus.

    Returns:
        For each (P, F, min(a, b)): values at the F frequencies that :func:`half_plane` lists, in no
        order.

    Raises:
        ValueError: a shape is wrong.
        TypeError: a dtype is wrong.
        RuntimeError: the tensors are on different devices or one without kernels.

    Example:
        >>> import torch, fastrobust as fr
        >>> taps = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2)
        >>> fr.ops.conv_spectrum([taps], [((0, 0), (0, 1))], [(1, 2)])[0].flatten()
        tensor([3., 1.])
    """
    grams, waves, jobs, shapes, scales = [], [], [], [], []
    turns: dict[tuple[Places, Size], int] = {}
    gram_size = wave_size = value_size = 0
    for weight, where, size in zip(weights, places, sizes, strict=True):
        most = WIDEST.get(weight.device.type, 0)
        if weight.dim() != 4 or not 1 <= min(weight.shape[1:3]) <= most:
            raise ValueError(
                f"weights must have shape (P, a, b, taps) with 1 <= min(a, b) <= {most} on "
                f"{weight.device}, got {tuple(weight.shape)}"
            )
        if weight.shape[3] != len(where):
            raise ValueError(
                f"places must name each of {weight.shape[3]} taps, got {len(where)} places"
            )
        problems, r = len(weight), min(weight.shape[1:3])
        scale = weight.abs().amax((1, 2, 3), keepdim=True)
        scale = scale.clamp_min(torch.finfo(weight.dtype).tiny)  # for weights of 0
        gram = _lag_gram(weight / scale, where, size)
        if (where, size) not in turns:
            turns[where, size] = wave_size
            waves.append(_waves(where, size, weight.dtype, weight.device).flatten())
            wave_size += waves[-1].numel()
        frequencies = len(half_plane(*size))
        blocks = -(-frequencies // _LANES)
        lags = gram.shape[1]
        problem = torch.arange(problems).repeat_interleave(blocks)
        block = torch.arange(blocks).repeat(problems) * _LANES
        job = torch.empty(problems * blocks, 6, dtype=torch.int64)
        job[:, 0], job[:, 1], job[:, 4] = r, lags, blocks * _LANES
        job[:, 2] = gram_size + problem * gram[0].numel()
        job[:, 3] = turns[where, size] + block
        job[:, 5] = value_size + problem * (r * blocks * _LANES) + block
        jobs.append(job)
        grams.append(gram.flatten())
        gram_size += gram.numel()
        value_size += problems * r * blocks * _LANES
        shapes.append((problems, r, blocks * _LANES, frequencies))
        scales.append(scale.flatten(1))
    if not shapes:
        return []
    values = _conv_spectrum(torch.cat(grams), torch.cat(waves), torch.cat(jobs), value_size)
    spectra, at = [], 0
    for (problems, r, padded, frequencies), scale in zip(shapes, scales, strict=True):
        mine = values[at : at + problems * r * padded].view(problems, r, padded)
        spectra.append(mine[..., :frequencies].mT * scale[..., None])
        at += problems * r * padded
    return spectra


def _lag_gram(weight: Tensor, places: Places, size: Size) -> Tensor:
    """Return (P, lags, 2, r (r + 1) / 2): what `gram` of csrc/ops/conv_spectrum.h is."""
    if weight.shape[1] > weight.shape[2]:
        weight = weight.transpose(1, 2)
    problems, r, _, taps = weight.shape
    flat = weight.permute(0, 1, 3, 2).flatten(1, 2)
    products = (flat @ flat.mT).view(problems, r, taps, r, taps)
    i, j = torch.tril_indices(r, r, device=weight.device)
    signs = _signs(places, size).to(weight)
    gram = products[:, i, :, j].flatten(2) @ signs  # (entries, P, 2 * lags)
    return gram.permute(1, 2, 0).unflatten(1, (-1, 2)).contiguous()


@lru_cache(maxsize=256)
def _half_lags(places: Places, size: Size) -> tuple[tuple[int, int], ...]:
    """List one of each pair of lags l, -l between taps."""
    lags = {((a - c) % size[0], (b - d) % size[1]) for a, b in places for c, d in places}
    return tuple(sorted({min(lag, (-lag[0] % size[0], -lag[1] % size[1])) for lag in lags}))


@lru_cache(maxsize=256)
def _signs(places: Places, size: Size) -> Tensor:
    """Return (taps * taps, 2 * lags): which products of taps make up C_l + C_-l and C_l - C_-l."""
    lags = {lag: index for index, lag in enumerate(_half_lags(places, size))}
    signs = torch.zeros(len(places), len(places), len(lags), 2)
    for t, (a, b) in enumerate(places):
        for s, (c, d) in enumerate(places):
            lag = ((a - c) % size[0], (b - d) % size[1])
            mirror = ((c - a) % size[0], (d - b) % size[1])
            index = lags[min(lag, mirror)]
            signs[t, s, index, 0] += 1
            signs[t, s, index, 1] += 1 if lag <= mirror else -1
    return signs.flatten(2).flatten(0, 1)


@lru_cache(maxsize=64)
def _waves(places: Places, size: Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (lags, 2, frequencies): cosines and sines, the last frequency again up to a row."""
    frequencies = half_plane(*size)
    padded = [*frequencies, *[frequencies[-1]] * (-len(frequencies) % _LANES)]
    u, v, _ = torch.tensor(padded, dtype=torch.float64).T
    y, x = torch.tensor(_half_lags(places, size), dtype=torch.float64).T[..., None]
    # Whole turns are left out before they are rounded.
    angle = ((u * y % size[0]) / size[0] + (v * x % size[1]) / size[1]) * (2 * math.pi)
    return torch.stack([angle.cos(), angle.sin()], 1).to(device, dtype)


@torch.library.custom_op("fastrobust::conv_spectrum", mutates_args=())
def _conv_spectrum(gram: Tensor, waves: Tensor, jobs: Tensor, count: int) -> Tensor:
    values = gram.new_empty(count)
    kernels.conv_spectrum(gram, waves, jobs, values)
    return values


@_conv_spectrum.register_fake
def _(gram: Tensor, waves: Tensor, jobs: Tensor, count: int) -> Tensor:
    return gram.new_empty(count)


def conv_spectrum_ref(
    weights: Sequence[Tensor], places: Sequence[Places], sizes: Sequence[Size]
) -> list[Tensor]:
    """Do what :func:`conv_spectrum` does in plain PyTorch; values are descending."""
    values = []
    for weight, where, size in zip(weights, places, sizes, strict=True):
        u, v, _ = torch.tensor(half_plane(*size), dtype=torch.float64).T
        y, x = torch.tensor(where, dtype=torch.float64).T[..., None]
        angle = (u * y / size[0] + v * x / size[1]) * (-2 * math.pi)
        wave = torch.polar(torch.ones_like(angle), angle).to(weight.device)
        matrices = torch.einsum("pabt,tf->pfab", weight.to(wave.dtype), wave)
        values.append(torch.linalg.svdvals(matrices).to(weight.dtype))
    return values
