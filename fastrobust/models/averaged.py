"""Models that answer differently each time."""

import torch
from torch import Tensor, nn

PASSES = 8  # answers whose mean is one answer


class Averaged(nn.Module):
    """The mean class scores of several answers: a model that is hardly random any more.

    Attacks on it follow the expected gradient (expectation over transformation, Athalye et al.,
    arXiv 1707.07397), and what it decides is no luck.

    Args:
        model: gives (N, K) class scores.
        passes: how many answers.

    Example:
        >>> scores = Averaged(torch.nn.Dropout(0.5).train(), passes=500)(torch.ones(1, 2))
        >>> bool((scores - 1).abs().max() < 0.5)
        True
    """

    def __init__(self, model: nn.Module, passes: int = PASSES) -> None:
        super().__init__()
        self.model, self.passes = model, passes

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, K) of images (N, ...)."""
        return torch.stack([self.model(x) for _ in range(self.passes)]).mean(0)


@torch.no_grad()
def is_random(model: nn.Module, x: Tensor, passes: int = 5) -> bool:
    """Say whether answers about the same images (N, ...) differ by more than rounding.

    >>> is_random(torch.nn.Identity(), torch.ones(1, 2))
    False
    """
    first = model(x)
    near = 1e-4 * float(first.abs().nan_to_num().max()) if first.numel() else 0.0
    # NaN is an answer, too, and the same one each time.
    again = (model(x) for _ in range(passes - 1))
    return not all(torch.allclose(one, first, 1e-4, near, equal_nan=True) for one in again)
