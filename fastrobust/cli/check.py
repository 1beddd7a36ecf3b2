"""``fastrobust check``: published numbers, compared with each other."""

import sys
from typing import Annotated

import typer

from ..published import listing, reading, rules
from ..published.numbers import Tables
from . import options, terminal


def check(
    tables: Annotated[
        str,
        typer.Argument(
            help="The word paper (the 483 built-in numbers of arXiv:1812.00181), a .csv or .json "
            "file of results (see README for its columns), or a run folder with a report."
        ),
    ],
    images: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of test images behind each reported rate, if the file does not say. The "
            "default follows from the paper's three decimals; it does not give the number.",
        ),
    ] = reading.IMAGES,
    classes: Annotated[
        int, typer.Option(min=2, help="Number of classes N (chance accuracy is 1/N).")
    ] = 10,
    rule: Annotated[
        str | None, typer.Option(help=f"Apply only one rule: {', '.join(rules.RULES)}.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 if a number fails.")
    ] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List published numbers that cannot be a true robust accuracy, and explain why.

    No model is run: the numbers are only compared with each other. When two of them disagree, the
    higher robust accuracy is wrong, because its attack missed what the other attack found.
    """
    numbers = Tables(reading.read(tables, images), classes)
    suspects = listing.gather(rules.contradictions(numbers, rule), numbers)
    if as_json:
        terminal.show_json(listing.as_json(suspects, numbers))
    else:
        print(listing.summary(suspects, numbers))
        if suspects and sys.stdout.isatty():
            terminal.show([listing.as_table(suspects)])
        else:
            for line in listing.as_lines(suspects):
                print(line)
        for line in listing.rule_lines(suspects):
            print(line)
    if strict and any(suspect.severity == "fail" for suspect in suspects):
        raise typer.Exit(1)
