"""Data sets by name: digits and the three of the paper, or a user's own file or folder."""

import gzip
import os
import shutil
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .dataset import SPLITS, DataSet

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10")

_DIGITS_TEST = 500  # held-out images of digits; the other 1,297 train
_IMAGE_MODES = ("L", "RGB")  # Pillow's names of 8-bit grey and colour without transparency


def load(
    name: str, root: str | os.PathLike[str] | None = None, splits: Collection[str] = SPLITS
) -> DataSet:
    """Load a data set; nothing is ever downloaded.

    Args:
        name: one of

            - ``"digits"``: scikit-learn's 1,797 digits of 8x8, pixels of 0..16 over 16. A fixed
              permutation, ``numpy.random.RandomState(0)``, holds its last 500 out for the test.
            - ``"mnist"``, ``"fashion_mnist"``, ``"cifar10"``: the files that torchvision reads.
            - ``"npz:PATH"``: arrays x_train, y_train, x_test, y_test; uint8 (N, H, W) or
              (N, H, W, C).
            - ``"folder:PATH"``: images of one size in ``train/CLASS/`` and ``test/CLASS/``.
        root: folder of the torchvision files; environment variable FASTROBUST_DATA if None, and
            ``./data`` without it.
        splits: which splits to keep in memory; the other has no images. The digest covers both.

    Raises:
        FileNotFoundError: files are missing; the message says where it looked and what to put
            there.
        TypeError: an array has the wrong dtype.
        ValueError: the name is unknown, or images or labels are not what a data set must hold.

    Example:
        >>> data = load("digits")
        >>> len(data.x_train), tuple(data.x_test.shape), data.num_classes
        (1297, (500, 1, 8, 8), 10)
    """
    kind, _, path = name.partition(":")
    folder = Path(root or os.environ.get("FASTROBUST_DATA") or "data")
    readers: dict[str, Callable[[], dict[str, Any]]] = {
        "digits": _digits,
        "mnist": partial(_torchvision, "MNIST", "MNIST/raw", folder),
        "fashion_mnist": partial(_torchvision, "FashionMNIST", "FashionMNIST/raw", folder),
        "cifar10": partial(_torchvision, "CIFAR10", "cifar-10-batches-py", folder),
        "npz": partial(_npz, Path(path)),
        "folder": partial(_folder, Path(path)),
    }
    if kind not in readers or (kind in NAMES) == bool(path):
        raise ValueError(
            f"the data set must be one of {', '.join(NAMES)}, npz:PATH, folder:PATH, got {name!r}"
        )
    return DataSet.from_uint8(name, splits=splits, **readers[kind]())


def _digits() -> dict[str, Any]:
    from sklearn.datasets import load_digits

    source = load_digits()
    # RandomState's stream is frozen for ever (NumPy NEP 19), and the files' order goes by writer.
    order = np.random.RandomState(0).permutation(len(source.target))
    x, y = source.images.astype(np.uint8)[order], source.target[order]
    return {
        "arrays": {
            "x_train": x[:-_DIGITS_TEST],
            "y_train": y[:-_DIGITS_TEST],
            "x_test": x[-_DIGITS_TEST:],
            "y_test": y[-_DIGITS_TEST:],
        },
        "white": 16,
    }


def _torchvision(class_name: str, folder: str, root: Path) -> dict[str, Any]:
    """Read both splits by the class of torchvision.datasets that looks in root / folder."""
    from torchvision import datasets

    read = getattr(datasets, class_name)
    with ExitStack() as stack:
        source = root
        packed = sorted((root / folder).glob("*-ubyte.gz"))
        if packed and not list((root / folder).glob("*-ubyte")):
            # As published the files are compressed, and torchvision reads only unpacked ones.
            source = Path(stack.enter_context(TemporaryDirectory()))
            (source / folder).mkdir(parents=True)
            for file in packed:
                with gzip.open(file) as closed, open(source / folder / file.stem, "wb") as opened:
                    shutil.copyfileobj(closed, opened)
        try:
            train, test = (read(source, train=train, download=False) for train in (True, False))
        except RuntimeError:
            raise FileNotFoundError(
                f"{class_name} must be in {(root / folder).resolve()}, got no complete set of its "
                f"files there; torchvision.datasets.{class_name}({str(root)!r}, download=True) "
                "puts them there, or set FASTROBUST_DATA to the folder that has them"
            ) from None
    return {
        "arrays": {
            "x_train": np.asarray(train.data),
            "y_train": np.asarray(train.targets),
            "x_test": np.asarray(test.data),
            "y_test": np.asarray(test.targets),
        },
        "class_names": train.classes,
    }


def _npz(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.resolve()} must be an .npz file with x_train, y_train, x_test and y_test, "
            "got no such file"
        )
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {"arrays": {name: archive[name] for name in archive.files}}
    except Exception as error:  # zip, pickle and header errors: NumPy documents no common base
        raise ValueError(f"{path} must be a readable .npz file, got: {error}") from error


def _folder(path: Path) -> dict[str, Any]:
    from torchvision.datasets import ImageFolder

    arrays, classes = {}, {}
    for split in SPLITS:
        if not (path / split).is_dir():
            raise FileNotFoundError(
                f"{(path / split).resolve()} must hold one folder of images per class, "
                "got no such folder"
            )
        images = ImageFolder(str(path / split), loader=_pixels)
        classes[split] = images.classes
        arrays[f"x_{split}"] = _stack(images)
        arrays[f"y_{split}"] = np.asarray(images.targets)
    if classes["train"] != classes["test"]:
        raise ValueError(
            f"{path} must hold the same classes in train and test, "
            f"got {classes['train']} and {classes['test']}"
        )
    return {"arrays": arrays, "class_names": classes["train"]}


def _pixels(file: str) -> np.ndarray:
    """Read one image as uint8 (H, W) or (H, W, 3)."""
    from PIL import Image

    with Image.open(file) as image:
        if image.mode not in _IMAGE_MODES:
            raise ValueError(
                f"{file} must be an 8-bit grey or RGB image without transparency, "
                f"got Pillow mode {image.mode}"
            )
        return np.asarray(image)


def _stack(images: Any) -> np.ndarray:
    first, _ = images[0]
    stacked = np.empty((len(images), *first.shape), np.uint8)
    for index, (file, _) in enumerate(images.samples):
        pixels, _ = images[index]
        if pixels.shape != first.shape:
            raise ValueError(
                f"every image must have the shape of the first, {first.shape}, "
                f"got {pixels.shape} in {file}"
            )
        stacked[index] = pixels
    return stacked
