"""A cache of the pieces of a long computation, one file each, so that it can be resumed."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils import atomic
from ..utils.errors import StoreError


class Journal:
    """Keeps arrays by name in a folder.

    Args:
        folder: The folder; None keeps nothing.
        facts: JSON values that define the computation. A folder with other facts is refused.

    Raises:
        StoreError: The folder belongs to another computation.
    """

    def __init__(self, folder: Path | None, facts: Mapping[str, Any]) -> None:
        self._folder = folder
        if folder is None:
            return
        path, text = folder / "facts.json", json.dumps(facts, indent=1, sort_keys=True)
        if not path.exists():
            atomic.replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
            return
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StoreError(f"{path} must be JSON, but cannot be read: {error}") from None
        now = json.loads(text)
        if kept != now:
            other = [name for name in sorted({*kept, *now}) if kept.get(name) != now.get(name)]
            raise StoreError(
                f"{folder} must be empty or hold this same evaluation, but differs in "
                f"{', '.join(other)}: give another folder"
            )

    def once(
        self, name: str, compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return the arrays of `name`, computed unless they are kept already.

        Raises:
            StoreError: Their file is damaged.
        """
        if self._folder is None:
            return compute()
        path = self._folder / f"{name}.npz"
        if path.exists():
            try:
                with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
                    return {key: content[key] for key in content.files}
            except Exception as error:  # numpy and zipfile raise many kinds
                raise StoreError(
                    f"{path} must hold a part of an evaluation, but is damaged "
                    f"({type(error).__name__}); delete it to have it computed again"
                ) from error
        arrays = compute()

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:  # numpy would append .npz to a name
                np.savez(file, **arrays)  # type: ignore[arg-type]

        atomic.replace(path, write)
        return arrays


def digest(*tensors: Tensor) -> str:
    """Return a SHA-256 of the values, shapes and types of tensors."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        sha.update(plain.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
