"""``fastrobust report``: the tables of a run folder, as files and on the terminal."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..report import writer
from ..sweep.runner import Outcome
from . import options, terminal


def report(
    out: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write report.html, tables.md and tables.csv for a run folder, even an unfinished one."""
    show_report(writer.write(out), None, as_json)


def show_report(written: writer.ReportFiles, outcome: Outcome | None, as_json: bool) -> None:
    """Print the tables of a report and the paths of its files.

    Raises:
        typer.Exit: With code 1 if experiments of the sweep failed; stderr names them.
    """
    paths = {name: str(getattr(written, name)) for name in ("page", "markdown", "csv", "pictures")}
    if as_json:
        terminal.show_json({**(asdict(outcome) if outcome else {}), **paths})
    else:
        terminal.show(written.tables)
        for name, path in paths.items():
            print(f"{name:9}{path}")
    if outcome and outcome.failed:
        terminal.say(f"failed experiments: {len(outcome.failed)}")
        for line in outcome.failed:
            terminal.say(f"  {line}")
        raise typer.Exit(1)
