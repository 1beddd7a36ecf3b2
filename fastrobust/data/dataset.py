"""One data set in memory, and the checks that every source passes through."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..utils import checks

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images and labels of a training and a test split.

    Attributes:
        name: the name it was loaded by.
        x_train: (N, C, H, W) float32 in [0, 1]; N = 0 for a split that was not asked for.
        y_train: (N,) int64 in [0, num_classes).
        x_test: as `x_train`; an image's place is its index in attacks and sweeps.
        y_test: as `y_train`.
        num_classes: number of classes K.
        digest: SHA-256 of both splits as they were stored (8-bit images, labels), in hexadecimal:
            the same whichever splits were asked for.
        class_names: one name per class.

    Raises:
        TypeError: images are not float32, labels not integers.
        ValueError: a shape, the range of the pixels or of the labels, or a count is wrong.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    digest: str
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what no source may hand on."""
        if len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names must hold {self.num_classes} names, got {len(self.class_names)}"
            )
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                "x_train and x_test must hold images of one shape, got "
                f"{tuple(self.x_train.shape[1:])} and {tuple(self.x_test.shape[1:])}"
            )
        for split in SPLITS:
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            _check_pixels(x, f"x_{split}")
            checks.labels(y, len(x), self.num_classes, x.device, f"y_{split}")

    @classmethod
    def from_uint8(
        cls,
        name: str,
        arrays: dict[str, np.ndarray],
        *,
        white: int = 255,
        class_names: Sequence[str] | None = None,
        splits: Collection[str] = SPLITS,
    ) -> "DataSet":
        """Make a data set of 8-bit images.

        Args:
            name: what to call it.
            arrays: ``x_train``, ``x_test`` uint8 (N, H, W) or (N, H, W, C) with 1 or 3 channels;
                ``y_train``, ``y_test`` integers (N,). Each class 0..K-1 occurs in both splits.
            white: the pixel value that becomes 1; none may be larger.
            class_names: one per class; the numbers 0..K-1 if None.
            splits: which of ``"train"`` and ``"test"`` to keep.

        Raises:
            TypeError: an array has the wrong dtype.
            ValueError: an array is missing, or its shape, range or classes are wrong.

        Example:
            >>> x, y = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
            >>> arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
            >>> DataSet.from_uint8("blank", arrays).x_test.shape
            torch.Size([4, 1, 8, 8])
        """
        unknown = set(splits) - set(SPLITS)
        if unknown or not splits:
            raise ValueError(f'splits must be some of "train" and "test", got {tuple(splits)}')
        images, labels = {}, {}
        for split in SPLITS:
            images[split] = _nhwc(arrays, f"x_{split}", white)
            labels[split] = _labels(arrays, f"y_{split}", len(images[split]))
        num_classes = 1 + max(int(y.max()) for y in labels.values())
        for split, y in labels.items():
            _check_every_class(y, num_classes, f"y_{split}")
        tensors = {}
        for split in SPLITS:
            kept = slice(None) if split in splits else slice(0)
            channels_first = np.ascontiguousarray(images[split][kept].transpose(0, 3, 1, 2))
            tensors[f"x_{split}"] = torch.from_numpy(channels_first).to(torch.float32) / white
            tensors[f"y_{split}"] = torch.from_numpy(labels[split][kept])
        return cls(
            name=name,
            num_classes=num_classes,
            digest=_digest(white, *(a[s] for s in SPLITS for a in (images, labels))),
            class_names=tuple(class_names or map(str, range(num_classes))),
            **tensors,
        )


def _check_pixels(x: Tensor, name: str) -> None:
    if x.dtype != torch.float32:
        raise TypeError(f"{name} must be float32 with pixels in [0, 1], got {x.dtype}")
    if x.dim() != 4:
        raise ValueError(f"{name} must have shape (N, C, H, W), got {tuple(x.shape)}")
    if x.numel():
        low, high = (bound.item() for bound in x.aminmax())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise ValueError(f"{name} must have pixels in [0, 1], got {low} to {high}")


def _nhwc(arrays: dict[str, np.ndarray], name: str, white: int) -> np.ndarray:
    """Return the images of one split as uint8 (N, H, W, C)."""
    x = _array(arrays, name)
    if x.dtype != np.uint8:
        raise TypeError(f"{name} must be uint8 with pixels from 0 to {white}, got {x.dtype}")
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or 0 in x.shape or x.shape[3] not in (1, 3):
        raise ValueError(
            f"{name} must have shape (N, H, W) or (N, H, W, 1 or 3) and at least one image, "
            f"got {arrays[name].shape}"
        )
    if x.max() > white:
        raise ValueError(f"{name} must have pixels from 0 to {white}, got {x.max()}")
    return x


def _labels(arrays: dict[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """Return the labels of one split as int64 (N,)."""
    y = _array(arrays, name)
    if not np.issubdtype(y.dtype, np.integer):
        raise TypeError(f"{name} must hold integer class indices, got {y.dtype}")
    if y.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one per image, got {y.shape}")
    if y.min() < 0:
        raise ValueError(f"{name} must be >= 0, got {y.min()}")
    return y.astype(np.int64)


def _array(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise ValueError(
            f"the data must hold x_train, y_train, x_test and y_test, got {sorted(arrays)}"
        )
    return arrays[name]


def _check_every_class(y: np.ndarray, num_classes: int, name: str) -> None:
    absent = np.setdiff1d(np.arange(num_classes), y)
    if len(absent):
        raise ValueError(
            f"{name} must hold every class from 0 to {num_classes - 1}, "
            f"got none of {absent[:10].tolist()}"
        )


def _digest(white: int, *arrays: np.ndarray) -> str:
    """SHA-256 of the white level and of every array: shape, then little-endian values."""
    sha = hashlib.sha256(str(white).encode())
    for array in arrays:
        sha.update(str(array.shape).encode())
        sha.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return sha.hexdigest()
