"""Which classes an image is most easily taken for."""

from torch import Tensor


def rivals(scores: Tensor, y: Tensor, count: int) -> Tensor:
    """Return the classes other than y by descending score, (N, min(count, K - 1)) int64.

    Args:
        scores: (N, K) class scores.
        y: (N,) int64 class that is no rival of its own.
        count: how many.

    Example:
        >>> import torch
        >>> rivals(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), 9)
        tensor([[2, 1]])
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    others = order[order != y[:, None]].view(len(y), -1)
    return others[:, :count]
