"""The state of an unfinished training: one file beside the checkpoint, written after each epoch."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from ..utils import atomic
from ..utils.errors import CheckpointError


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Restore the state."""


class Resume:
    """Saves and restores what a training needs to go on as if it had never stopped.

    The file is a SHA-256 followed by what it covers, a ``torch.save`` archive.

    Args:
        path: file of the state.
        settings: JSON values that must be the same when the training goes on.
        parts: modules and optimizers. Random generators and the learning rate need no state: they
            follow from the epoch.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], parts: Mapping[str, Stateful]
    ) -> None:
        self._path = path
        self._settings = json.loads(json.dumps(settings))
        self._parts = parts

    def save(self, epochs_done: int) -> None:
        """Save the state after `epochs_done` epochs."""
        state = {name: part.state_dict() for name, part in self._parts.items()}
        buffer = io.BytesIO()
        torch.save({"settings": self._settings, "epochs_done": epochs_done, **state}, buffer)
        content = buffer.getvalue()
        content = hashlib.sha256(content).digest() + content
        atomic.replace(self._path, lambda temporary: temporary.write_bytes(content))

    def restore(self) -> int:
        """Restore every part and return the number of epochs done: 0 if there is no file.

        Raises:
            CheckpointError: the file is damaged or belongs to a training with other settings.
        """
        if not self._path.exists():
            return 0
        content = self._path.read_bytes()
        digest, content = content[:32], content[32:]
        if hashlib.sha256(content).digest() != digest:
            raise CheckpointError(
                f"{self._path} must be the whole state of a training, got a damaged or foreign "
                "file; delete it to start over"
            )
        kept = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if kept["settings"] != self._settings:
            raise CheckpointError(
                f"{self._path} must belong to this training, got one with other settings "
                f"({_difference(kept['settings'], self._settings)}); finish that one with its "
                "settings, or delete the file to start over"
            )
        for name, part in self._parts.items():
            part.load_state_dict(kept[name])
        return int(kept["epochs_done"])

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def _difference(kept: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the settings that differ, by name."""
    return ", ".join(
        f"{name} was {kept.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(kept.keys() | now.keys())
        if kept.get(name) != now.get(name)
    )
