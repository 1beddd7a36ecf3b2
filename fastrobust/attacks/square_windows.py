"""Windows of images, one for each row: how large, where, and the bumps that fill them.

Geometry of Andriushchenko et al., arXiv 1912.00049. Sizes and places are per row (N,), so that rows
at different steps of their search share every operation.
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .state import beside

_ROUNDING = 256  # units in the last place that count as nothing: a quotient would make them large


class Windows(NamedTuple):
    """A window in each of N images of H x W pixels.

    Attributes:
        down: (N, H) int64 position of each row of pixels in the window, 0 for its first one.
        across: (N, W) int64 position of each column.
        tall: (N,) int64 height of the window.
        wide: (N,) int64 width of the window.
    """

    down: Tensor
    across: Tensor
    tall: Tensor
    wide: Tensor

    @property
    def mask(self) -> Tensor:
        """Which pixels are inside, (N, 1, H, W) bool."""
        rows = (self.down >= 0) & (self.down < self.tall[:, None])
        columns = (self.across >= 0) & (self.across < self.wide[:, None])
        return rows[:, None, :, None] & columns[:, None, None, :]


def sides(area: Tensor, height: int, width: int, bumpy: bool) -> tuple[Tensor, Tensor]:
    """Return height and width (N,) int64 of windows of about `area` (N,) float64 pixels.

    They are squares, which become longer where the image is narrower. A `bumpy` one has at least
    three pixels each way, and an odd number where the image has the room.
    """
    side = area.sqrt().round().clamp_min(3 if bumpy else 1)
    if bumpy:
        side += side % 2 == 0
    tall = (side.square() / side.clamp(max=width)).round().clamp(max=height)
    wide = (side.square() / side.clamp(max=height)).round().clamp(max=width)
    return tall.long(), wide.long()


def windows(tall: Tensor, wide: Tensor, corner: Tensor, height: int, width: int) -> Windows:
    """Place windows of these sizes (N,) in images of height x width pixels.

    Args:
        tall: (N,) int64 heights.
        wide: (N,) int64 widths.
        corner: (N, 2) numbers in [0, 1), which choose evenly among the places of the first pixel.
        height: of the images.
        width: of the images.
    """
    room = torch.stack([height - tall, width - wide], 1) + 1
    first = (corner.double() * room).long()
    down, across = (torch.arange(count, device=first.device) for count in (height, width))
    return Windows(down - first[:, :1], across - first[:, 1:], tall, wide)


def bumps(places: Windows, turned: Tensor, dtype: torch.dtype) -> Tensor:
    """Fill windows with two bumps of opposite sign, each highest in its middle: equation 2.

    Args:
        places: of N images.
        turned: (N,) bool, whether one bump is beside the other, not below it.
        dtype: of the result.

    Returns:
        (N, 1, H, W) of norm 1, zero outside of the windows.
    """
    row, high, above = _halves(places.down, places.tall, ~turned)
    column, broad, left = _halves(places.across, places.wide, turned)
    heights = _heights(row.shape[1] + column.shape[1], row.device, dtype)
    # Rings around the middle: heights grow with the ring, so that of the larger one is larger.
    top = torch.maximum(heights[high // 2 + 1][:, :, None], heights[broad // 2 + 1][:, None])
    bump = top - torch.maximum(heights[row][:, :, None], heights[column][:, None])
    bump = bump * above[:, :, None] * left[:, None]
    bump = bump[:, None] * places.mask
    return F.normalize(bump.flatten(1)).view_as(bump)


def tiled_bumps(turned: Tensor, signs: Tensor, height: int, width: int) -> Tensor:
    """Cover images with square tiles of bumps, a fifth of the image wide.

    Args:
        turned: (N, T) bool for each tile, see :func:`bumps` and :func:`tiles`.
        signs: (N, T, C) of each tile and channel.
        height: of the images.
        width: of the images.

    Returns:
        (N, C, height, width) in the dtype of `signs`.
    """
    side, down, across = tiles(height, width)
    size = torch.full((2,), side, device=turned.device)
    whole = windows(size, size, torch.zeros(2, 2, device=turned.device), side, side)
    both = bumps(whole, torch.tensor([False, True], device=turned.device), signs.dtype)
    tile = both[turned.long(), 0][:, :, None] * signs[..., None, None]
    grid = tile.unflatten(1, (down, across)).permute(0, 3, 1, 4, 2, 5)
    covered = grid.flatten(4, 5).flatten(2, 3)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    bottom, right = height - down * side - top, width - across * side - left
    return F.pad(covered, (left, right, top, bottom))


def tiles(height: int, width: int) -> tuple[int, int, int]:
    """Return the side of a tile, and how many there are down and across."""
    side = max(min(height, width) // 5, 1)
    return side, height // side, width // side


def _halves(position: Tensor, size: Tensor, cut: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut windows along an axis in two where `cut` (N,) says so.

    Returns:
        (N, count) each: distance from the middle of the own half, size of that half, and 1 in the
        first one, -1 in the other.
    """
    half, size, cut = (size // 2)[:, None], size[:, None], cut[:, None]
    first = ~cut | (position < half)
    start = torch.where(first, 0, half)
    end = torch.where(cut & first, half, size)
    return (position - (start + end) // 2).abs(), end - start, torch.where(first, 1, -1)


@cache
def _heights(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sums of 1 / k^2 over k = 1..i, for i = 0..count-1."""
    squares = torch.arange(1, count, dtype=torch.float64, device=device).square()
    return F.pad(squares.reciprocal().cumsum(0), (1, 0)).to(dtype)


def with_bumps(
    change: Tensor, first: Windows, second: Windows, turned: Tensor, signs: Tensor, eps: Tensor
) -> Tensor:
    """Let the change in the first window give way to bumps, with the norm of both: algorithm 3.

    Args:
        change: (N, C, H, W) from the image.
        first: where the bumps go.
        second: where the change becomes zero.
        turned: (N,) bool, see :func:`bumps`.
        signs: (N, C, 1, 1) of the bumps.
        eps: (N,) norm that the whole change may have.
    """
    here, there = first.mask, second.mask
    eps = beside(eps, change)
    least = _ROUNDING * torch.finfo(change.dtype).eps
    spare = eps.square() - change.square().sum((1, 2, 3), keepdim=True)
    spare = spare.masked_fill(spare <= least * eps.square(), 0.0) / change.shape[1]
    norm = ((change * (here | there)).square().sum((2, 3), keepdim=True) + spare).sqrt()
    new = signs * bumps(first, turned, change.dtype) + _unit(change * here, least * eps)
    return torch.where(here, norm * _unit(new, least), change.masked_fill(there, 0.0))


def _unit(change: Tensor, least: Tensor | float) -> Tensor:
    """Each channel of (N, C, H, W) over its norm; zero where that is at most `least`."""
    norm = change.square().sum((2, 3), keepdim=True).sqrt()
    return change * torch.where(norm > least, 1 / norm, 0.0)


def planes(images: Tensor) -> Tensor:
    """View (N, C, H, W) as it is, (N, H, W) as one channel, (N, d) as one line of pixels."""
    if images.dim() == 2:
        return images[:, None, None]
    return images.view(len(images), -1, *images.shape[-2:])
