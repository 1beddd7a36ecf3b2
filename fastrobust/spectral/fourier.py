"""Every circular convolution as one of stride 1: small matrices, one for each frequency.

An input with circular padding lives on a torus. A stride s splits it into s x s phases (space to
depth, a permutation), among which the convolution has stride 1 on the coarser torus; taps that meet
on the torus add up. The singular values are then those of the Fourier matrices of what remains
(Sedghi, Gupta and Long 2018, arXiv 1805.10408, theorem 6).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from ..ops.conv_spectrum_op import half_plane

Pair = int | Sequence[int]


@dataclass(frozen=True)
class Torus:
    """A convolution of stride 1 on a torus.

    Attributes:
        weight: (groups, outputs, inputs, taps) of each group, differentiable in the user's weight.
        places: (row, column) of each tap.
        size: (rows, columns) of the torus.
    """

    weight: Tensor
    places: tuple[tuple[int, int], ...]
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of a group: of the matrix at each frequency."""
        return self.weight.shape[1], self.weight.shape[2]

    def matrices(self) -> Tensor:
        """Return (groups, frequencies, outputs, inputs) complex, as `half_plane` lists them."""
        groups, outputs, inputs, taps = self.weight.shape
        rows, columns = self.size
        at = torch.tensor([y * columns + x for y, x in self.places], device=self.weight.device)
        grid = self.weight.new_zeros(groups, outputs, inputs, rows * columns)
        grid = grid.index_copy(3, at, self.weight)
        waves = torch.fft.rfft2(grid.unflatten(3, self.size)).flatten(3)
        chosen = [u * (columns // 2 + 1) + v for u, v, _ in half_plane(*self.size)]
        return waves[..., chosen].permute(0, 3, 1, 2)

    def matrix(self, group: int, frequency: int) -> Tensor:
        """Return the (outputs, inputs) complex matrix of one group at one frequency."""
        u, v, _ = half_plane(*self.size)[frequency]
        turns = [u * y / self.size[0] + v * x / self.size[1] for y, x in self.places]
        angle = torch.tensor(turns, dtype=torch.float64, device=self.weight.device) * -2 * math.pi
        wave = torch.polar(torch.ones_like(angle), angle)
        kind = torch.complex64 if self.weight.dtype == torch.float32 else torch.complex128
        return self.weight[group].to(kind) @ wave.to(kind)


def torus(
    weight: Tensor, size: Pair, stride: Pair = 1, dilation: Pair = 1, groups: int = 1
) -> Torus:
    """Check a convolution and bring it to stride 1.

    Raises:
        TypeError: `weight` is no floating-point tensor.
        ValueError: its shape, its values or another argument cannot be, or a stride does not
            divide the input.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a torch.Tensor, got {type(weight).__name__}")
    if weight.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"weight must be float32 or float64, got {weight.dtype}")
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(
            "weight must have shape (c_out, c_in / groups, height, width), "
            f"got {tuple(weight.shape)}"
        )
    if not torch.isfinite(weight).all():
        raise ValueError("weight must be finite, got NaN or inf")
    input_size = pair(size, "input_size")
    strides, dilations = pair(stride, "stride"), pair(dilation, "dilation")
    if groups < 1 or len(weight) % groups:
        raise ValueError(f"groups must divide c_out = {len(weight)}, got {groups}")
    for length, step in zip(input_size, strides, strict=True):
        if length % step:
            raise ValueError(
                f"stride must divide input_size where padding is circular, got {step} and {length}"
            )
    kernel = weight
    axes = []
    for axis in (0, 1):
        coarse = input_size[axis] // strides[axis]
        at = [t * dilations[axis] for t in range(weight.shape[2 + axis])]
        places = sorted({p // strides[axis] % coarse for p in at})
        kernel = _phases(kernel, 2 + 2 * axis, at, strides[axis], coarse, places)
        axes.append(places)
    kernel = kernel.permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(1, 3)
    return Torus(
        kernel.unflatten(0, (groups, -1)),
        tuple((y, x) for y in axes[0] for x in axes[1]),
        (input_size[0] // strides[0], input_size[1] // strides[1]),
    )


def _phases(
    kernel: Tensor, axis: int, at: list[int], stride: int, coarse: int, places: list[int]
) -> Tensor:
    """Split the taps of an axis, which are `at` the input's pixels, into (phase, place)."""
    if stride == 1 and at == places:
        return kernel.unsqueeze(axis)
    index = [p % stride * len(places) + places.index(p // stride % coarse) for p in at]
    shape = list(kernel.shape)
    shape[axis] = stride * len(places)
    to = torch.tensor(index, device=kernel.device)
    return kernel.new_zeros(shape).index_add(axis, to, kernel).unflatten(axis, (stride, -1))


def pair(value: Pair, name: str, least: int = 1) -> tuple[int, int]:
    """Return (vertical, horizontal) of integers; one number is used for both."""
    both = tuple(value) if isinstance(value, Sequence) else (value, value)
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in both)
    if len(both) != 2 or not whole or min(both) < least:
        raise ValueError(f"{name} must be one or two whole numbers >= {least}, got {value!r}")
    return int(both[0]), int(both[1])
