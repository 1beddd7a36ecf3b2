"""``fastrobust report``: the tables of a run folder, as files and on the terminal."""

from pathlib import Path
from typing import Annotated

import typer

from ..report import writer
from . import options, terminal


def report(
    out: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write report.html, tables.md and tables.csv for a run folder, even an unfinished one."""
    terminal.show_report(writer.write(out), None, as_json)
