"""Exceptions that are this library's own; everything else is a built-in one."""


class CheckpointError(Exception):
    """A checkpoint is damaged, foreign, or written by another format version."""


class StoreError(Exception):
    """A file of a run folder is half-written, damaged, or belongs to another run."""
