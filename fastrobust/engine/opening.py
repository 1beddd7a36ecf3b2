"""Opens a model for questions, and leaves it as it was.

While an :class:`Oracle` is open the model is in eval mode with frozen parameters, outside autocast,
and whatever the caller's grad mode is. Every flag comes back at the end.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..models.classifier import as_classifier
from ..utils.modules import evaluating, frozen
from .gradients import Oracle
from .prepared import Model, Prepared, prepare


@contextmanager
def oracle(model: Model, device: torch.device) -> Iterator[Oracle]:
    """Open an :class:`Oracle` on a model; the model is untouched when it closes.

    Args:
        model: a Classifier, or any module or callable that returns (N, K) logits.
        device: where the images are.

    Raises:
        TypeError: `model` is neither.
        RuntimeError: the model is on another device.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
        >>> with oracle(net, x.device) as network:
        ...     answer = network.gradient(x, y, "ce", torch.ones(2))
        >>> answer.grad.shape
        torch.Size([2, 1, 2, 2])
    """
    classifier = as_classifier(model)
    parameters = list(classifier.parameters())
    devices = {parameter.device for parameter in parameters}
    if devices and device not in devices:
        raise RuntimeError(
            f"the model must be on {device} like the images, got {', '.join(map(str, devices))}"
        )
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), None)
    prepared = classifier if isinstance(classifier, Prepared) else prepare(classifier)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        evaluating(classifier),
        frozen(parameters),
        prepared.opened(),
    ):
        yield Oracle(classifier, prepared.search, prepared.exact, dtype, prepared.graph)
