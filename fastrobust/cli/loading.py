"""Models by the names that a command line gives them, and the shapes of their images."""

import importlib
import os
import re
import sys

from torch import nn

from ..models import checkpoint
from ..models.classifier import Classifier, as_classifier

MODEL_HELP = "Checkpoint, or package.module:callable returning an nn.Module."


def load_model(name: str, device: str) -> Classifier:
    """Return the classifier of a checkpoint, or of ``package.module:callable``.

    Args:
        name: A file, or the import path of a module or of a callable that returns one when called
            without arguments; the working directory is searched first.
        device: Where to put it.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged, or is not one of this package.
        ImportError, AttributeError: There is no such callable.
        TypeError: The callable does not return a ``torch.nn.Module``.
    """
    module, colon, attribute = name.partition(":")
    if not colon or os.path.exists(name):
        return checkpoint.load(name, device=device)
    sys.path.insert(0, os.getcwd())
    try:
        net = getattr(importlib.import_module(module), attribute)
    finally:
        sys.path.pop(0)
    if not isinstance(net, nn.Module):
        net = net()
    if not isinstance(net, nn.Module):
        raise TypeError(f"{name} must return a torch.nn.Module, got {type(net).__name__}")
    return as_classifier(net.to(device))


def image_shape(image: str | None, model: str) -> tuple[int, ...]:
    """Return channels, height and width of "3x32x32", by default of a checkpoint's data set.

    Raises:
        ValueError: `image` is not a shape, or is None where no checkpoint names a data set.
    """
    facts = checkpoint.read_facts(model) if os.path.exists(model) else {}
    text = image or _IMAGES.get(facts.get("data_set", ""), "none")
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise ValueError(f"--image must be a shape such as 3x32x32, got {text}")
    return tuple(map(int, text.split("x")))


_IMAGES = {
    "digits": "1x8x8", "mnist": "1x28x28", "fashion_mnist": "1x28x28", "cifar10": "3x32x32",
}  # fmt: skip
