"""Tables of plain text, and names of files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """A table of strings."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def slug(model_name: str) -> str:
    """Return a model's name for use in file names: ``o-softmax-ce``."""
    return model_name.lower().replace(":", "-")
