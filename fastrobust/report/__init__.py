"""Reports of a run folder: a page, Markdown and CSV."""

from .writer import Written, write

__all__ = ["Written", "write"]
