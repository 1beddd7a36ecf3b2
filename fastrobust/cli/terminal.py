"""What a command says on a terminal: tables, JSON, and errors in one line."""

import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ..utils.errors import CheckpointError, StoreError
from ..utils.text import TextTable

_LINE = 140  # characters of a line where there is no terminal to ask


def show(tables: Iterable[TextTable]) -> None:
    """Print tables on stdout."""
    console = Console(width=None if sys.stdout.isatty() else _LINE)
    for table in tables:
        drawn = Table(title=table.title, title_justify="left", title_style="bold")
        for number, head in enumerate(table.head):
            drawn.add_column(head, no_wrap=not number, overflow="fold")  # names stay whole
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def show_json(content: Any) -> None:
    """Print JSON on stdout, and nothing else there."""
    print(json.dumps(content, indent=1))


def say(text: str) -> None:
    """Print one line for people, on stderr so that stdout holds results alone."""
    print(text, file=sys.stderr)


@contextmanager
def one_line_errors(*, debug: bool) -> Iterator[None]:
    """Turn an exception into one clear line and exit code 2, unless `debug` asks for all of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_: say(f"warning: {message}")
        try:
            yield
        except typer.Abort:  # Ctrl-C
            say("stopped; what is finished is kept, the same command goes on from there")
            sys.exit(130)
        except Exception as error:
            if debug:
                raise
            say(f"error: {_message(error)}")
            sys.exit(2)


def _message(error: Exception) -> str:
    """Return what an exception says, in one line; of an unexpected one also its type."""
    # Errors of the command line's own parser say more by format_message than by str.
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    line = " ".join(text.split())
    expected = (ValueError, TypeError, RuntimeError, OSError, ImportError)
    ours = (*expected, CheckpointError, StoreError)
    if isinstance(error, ours) or hasattr(error, "format_message"):
        return line
    return f"{type(error).__name__}: {line} (--debug shows where)"
