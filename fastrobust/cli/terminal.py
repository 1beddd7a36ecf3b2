"""Terminal output of the commands: tables, JSON, and errors in one line."""

import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ..utils.errors import CheckpointError, StoreError
from ..utils.text import TextTable

_LINE = 140  # characters in a line if stdout is not a terminal


def show(tables: Iterable[TextTable]) -> None:
    """Print tables on stdout."""
    console = Console(width=None if sys.stdout.isatty() else _LINE)
    for table in tables:
        drawn = Table(title=table.title, title_justify="left", title_style="bold")
        for number, head in enumerate(table.head):
            drawn.add_column(head, no_wrap=not number, overflow="fold")  # names are not broken
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def show_json(content: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(content, indent=1))


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print names and values on stdout, one per line or as JSON."""
    if as_json:
        show_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:20} {value}")


def show_report(files: Any, outcome: Any, as_json: bool) -> None:
    """Print the tables of a report (`writer.ReportFiles`) and the paths of its files.

    Raises:
        typer.Exit: With code 1 if experiments of the sweep failed; stderr names them.
    """
    paths = {name: str(getattr(files, name)) for name in ("page", "markdown", "csv", "pictures")}
    if as_json:
        show_json({**(asdict(outcome) if outcome else {}), **paths})
    else:
        show(files.tables)
        for name, path in paths.items():
            print(f"{name:9}{path}")
    if outcome and outcome.failed:
        say(f"failed experiments: {len(outcome.failed)}")
        for line in outcome.failed:
            say(f"  {line}")
        raise typer.Exit(1)


def say(text: str) -> None:
    """Print a message on stderr; stdout holds only results."""
    print(text, file=sys.stderr)


@contextmanager
def one_line_errors(*, debug: bool) -> Iterator[None]:
    """Turn an exception into one line and exit code 2; with `debug`, show its traceback."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_: say(f"warning: {message}")
        try:
            yield
        except typer.Abort:  # Ctrl-C
            say("interrupted; finished results are kept, run the same command again to resume")
            sys.exit(130)
        except Exception as error:
            if debug:
                raise
            say(f"error: {_message(error)}")
            sys.exit(2)


def _message(error: Exception) -> str:
    """Return the message of an exception in one line, with its type if it is unexpected."""
    # Errors of Typer's parser name the option in format_message, not in str.
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    line = " ".join(text.split())
    expected = (ValueError, TypeError, RuntimeError, OSError, ImportError)
    if isinstance(error, (*expected, CheckpointError, StoreError)) or hasattr(
        error, "format_message"
    ):
        return line
    return f"{type(error).__name__}: {line} (--debug shows the traceback)"
