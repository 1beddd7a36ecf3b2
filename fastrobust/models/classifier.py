"""A network, what its outputs mean, and how its inputs are normalised: one classifier."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..utils.modules import evaluating
from .heads import Head, Softmax

Normalisation = tuple[float | Sequence[float], float | Sequence[float]]


class Classifier(nn.Module):
    """A network with a head; images are (N, C, H, W) with pixels in [0, 1].

    Args:
        net: maps normalised images to pre-activations z (N, d).
        head: what z means: :mod:`fastrobust.heads`.
        normalize: ``(mean, std)``, numbers or one per channel, in pixel units; it lives inside the
            classifier so that every eps is in pixel units. None leaves images as they are.

    Raises:
        TypeError: `net` is not a module, `head` is not a head.
        ValueError: a std is not positive, mean and std differ in length.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> model = Classifier(net, Softmax("ce"), normalize=(0.5, 0.25))
        >>> model(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, net: nn.Module, head: Head, normalize: Normalisation | None = None) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if not isinstance(head, Head):
            raise TypeError(f"head must be one of fastrobust.heads, got {type(head).__name__}")
        mean, std = (None, None) if normalize is None else map(_per_channel, normalize)
        if mean is not None and std is not None:
            if mean.shape != std.shape:
                raise ValueError(
                    f"normalize must hold as many means as stds, got {mean.numel()} "
                    f"and {std.numel()}"
                )
            if not (std > 0).all():
                raise ValueError(f"normalize must have stds > 0, got {std.flatten().tolist()}")
        self.net = net
        self.head = head
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def pre_activation(self, x: Tensor, net: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Pre-activations z (N, d) of the last linear layer for images x (N, C, H, W).

        At least float32 whatever the network's precision: heads, losses and decisions in half
        precision make a model look more robust than it is. `net` stands in for the network where
        somebody runs it in another way.
        """
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        z: Tensor = (net or self.net)(x)
        if not isinstance(z, Tensor) or z.dim() != 2 or len(z) != len(x):
            shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"net must return a tensor of shape ({len(x)}, d), got {shape}")
        self.head.num_classes(z.shape[1])
        return z if z.dtype in (torch.float32, torch.float64) else z.float()

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, K): argmax is the decision, so any other tool works on them."""
        return self.head.scores(self.pre_activation(x))

    def units(self, x: Tensor) -> Tensor:
        """Output units u (N, d): softmax(z), tanh(z), or z for a Linear head."""
        return self.head.units(self.pre_activation(x))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Decision (N,) int64, in eval mode whatever the flags; ties go to the lowest index."""
        with evaluating(self):
            return self.head.decide(self.pre_activation(x))


def as_classifier(model: nn.Module | Callable[[Tensor], Tensor]) -> Classifier:
    """Return `model` as a Classifier; a plain module or callable is one with Softmax("ce").

    Nothing is copied: the classifier holds the caller's module.
    """
    if isinstance(model, Classifier):
        return model
    if not isinstance(model, nn.Module) and not callable(model):
        raise TypeError(
            f"model must be a torch.nn.Module or a callable, got {type(model).__name__}"
        )
    return Classifier(model if isinstance(model, nn.Module) else _Callable(model), Softmax("ce"))


class _Callable(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _per_channel(value: float | Sequence[float]) -> Tensor:
    """Return (1, C, 1, 1) float32."""
    return torch.as_tensor(value, dtype=torch.float32).reshape(1, -1, 1, 1)
