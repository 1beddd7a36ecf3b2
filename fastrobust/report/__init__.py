"""Reports of a run folder: a page, Markdown and CSV."""

from .writer import ReportFiles, write

__all__ = ["ReportFiles", "write"]
