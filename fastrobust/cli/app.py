"""The command ``fastrobust``: the Typer application that all commands belong to."""

import inspect
import re
import sys
from typing import Annotated

import typer

from .._version import __version__
from ..utils import malloc
from . import attack, check, evaluate, info, lipschitz, paper, report, sweep, terminal, train

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure the adversarial robustness of a classifier.\n\n"
    "Start with [bold]fastrobust paper[/bold]. It trains the classifiers of Saito and Roy (2018) "
    "on real digits, attacks them, and writes one page that compares the paper's protocol with "
    "attacks on the class scores. This takes two to four minutes on two cores.\n\n"
    "Exit codes: 0 success; 1 failed experiments in a sweep, a failed sanity check in evaluate, or "
    "a failing number in check --strict; 2 any other error.",
    rich_markup_mode="rich",
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `arguments` defaults to the arguments of the process."""
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = typer.main.get_command(app)
    # --debug is looked up by hand because an error can occur before the options are parsed.
    with terminal.one_line_errors(debug="--debug" in words):
        malloc.keep_freed_memory()
        sys.exit(command(words, prog_name="fastrobust", standalone_mode=False))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show version and build.")] = False,
) -> None:
    if version:
        print(f"fastrobust {__version__} ({info.build_line()})")
        raise typer.Exit


for _command in (
    paper.paper,
    train.train,
    sweep.sweep,
    report.report,
    evaluate.evaluate,
    check.check,
    attack.attack,
    info.info,
    lipschitz.lipschitz,
):
    # Typer keeps the line breaks inside a paragraph; without them it wraps the text itself.
    _help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(_command) or "")
    app.command(help=_help)(_command)
