"""Codebooks: the target vector of every class (section 3.2 of arXiv 1812.00181)."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..ops.philox import philox4x32, symmetric_uniform


@dataclass(frozen=True, eq=False)
class Codebook:
    """Target vectors of the classes.

    Attributes:
        vectors: (K, d) float32 on the CPU, one row per class.

    Raises:
        TypeError: `vectors` is not a float32 tensor.
        ValueError: `vectors` is not 2-D, is empty, is not finite, or holds one row twice.

    Example:
        >>> book = Codebook.random(num_classes=10, length=128, key="secret")
        >>> tuple(book.vectors.shape), book.num_classes, book.length
        ((10, 128), 10, 128)
    """

    vectors: Tensor

    def __post_init__(self) -> None:
        """Refuse vectors that cannot tell the classes apart."""
        vectors = self.vectors
        if not isinstance(vectors, Tensor) or vectors.dtype != torch.float32:
            kind = vectors.dtype if isinstance(vectors, Tensor) else type(vectors).__name__
            raise TypeError(f"vectors must be a float32 tensor, got {kind}")
        if vectors.dim() != 2 or 0 in vectors.shape:
            raise ValueError(f"vectors must have shape (K, d), got {tuple(vectors.shape)}")
        if not torch.isfinite(vectors).all():
            raise ValueError("vectors must be finite, got NaN or inf")
        distinct = len(torch.unique(vectors, dim=0))
        if distinct != len(vectors):
            raise ValueError(
                f"vectors must differ from class to class, got {distinct} different rows "
                f"for {len(vectors)} classes"
            )

    @classmethod
    def random(cls, num_classes: int = 10, length: int = 128, key: str = "secret") -> "Codebook":
        """Draw codewords from U[-1, 1)^length by a secret key, the same on every platform.

        SHA-256 of the UTF-8 key gives eight little-endian words: the first two are the key of
        Philox4x32-10, the next two the upper half of its counter; the lower half counts blocks of
        four words. Words fill the matrix row by row, each as (bits >> 8) * 2^-23 - 1.

        Args:
            num_classes: number of classes K >= 1.
            length: codeword length d >= 1; 128 is the paper's (section 4.2).
            key: the secret; not stored.
        """
        if num_classes < 1 or length < 1:
            raise ValueError(f"num_classes and length must be >= 1, got {num_classes} and {length}")
        words = np.frombuffer(hashlib.sha256(key.encode()).digest(), "<u4")
        counter = np.zeros((-(-num_classes * length // 4), 4), np.uint32)
        counter[:, 0] = np.arange(len(counter))
        counter[:, 2:] = words[2:4]
        values = symmetric_uniform(philox4x32(counter, words[:2])).reshape(-1)
        return cls(torch.from_numpy(values[: num_classes * length].reshape(num_classes, length)))

    @classmethod
    def one_hot(cls, num_classes: int) -> "Codebook":
        """Return the unit vectors: the representation that codewords replace."""
        if num_classes < 1:
            raise ValueError(f"num_classes must be >= 1, got {num_classes}")
        return cls(torch.eye(num_classes))

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.vectors.shape[0]

    @property
    def length(self) -> int:
        """Codeword length d."""
        return self.vectors.shape[1]
