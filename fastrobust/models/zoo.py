"""Classifiers that come with the package: trained, measured, small."""

from importlib import resources

from ..utils.text import slug
from . import checkpoint
from .classifier import Classifier


def pretrained(data_set: str, model_name: str) -> Classifier:
    """Return one of the classifiers that the measured results of this project are about.

    They are DenseNet-BC 22-12 with three heads, trained for a few epochs on a CPU:
    ``checkpoint.read_facts`` on their file says how, ``results/README.md`` in the repository how
    accurate and how robust they are. Codewords are among the weights, so nothing about them is
    secret. ``"cifar10"`` was trained on a copy of CIFAR-10 in JPEG.

    Args:
        data_set: ``"mnist"``, ``"fashion_mnist"`` or ``"cifar10"``.
        model_name: ``"O:SOFTMAX:CE"``, ``"O:SOFTMAX:MSE"`` or ``"R:TANH:MSE"``; of MNIST codewords
            of other lengths too, ``"R:TANH:MSE:64"``.

    Returns:
        The classifier on the CPU, in eval mode; images are (N, 1, 28, 28), or (N, 3, 32, 32) of
        CIFAR-10, with pixels in [0, 1].

    Raises:
        ValueError: There is none of these names; the message lists those there are.

    Example:
        >>> import torch
        >>> model = pretrained("mnist", "R:TANH:MSE")
        >>> model(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    root = resources.files(__package__) / "weights"
    wanted = f"{slug(model_name)}.safetensors"
    files = {
        folder.name: sorted(file.name for file in folder.iterdir())
        for folder in root.iterdir()
        if folder.is_dir()
    }
    if wanted not in files.get(data_set, ()):
        there = ", ".join(
            f"{name}/{file.removesuffix('.safetensors')}"
            for name in sorted(files)
            for file in files[name]
        )
        raise ValueError(
            f"data_set and model_name must name weights that come with the package ({there}), got "
            f"{data_set!r} and {model_name!r}"
        )
    with resources.as_file(root / data_set / wanted) as path:
        return checkpoint.load(path)
