"""The commands that judge: evaluate, a classifier, and check, numbers that somebody published."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..evaluation import files
from ..published import listing, reading, rules
from ..published.numbers import Tables
from ..report import evaluation_page
from ..utils.text import slug
from . import evaluate as examining
from . import terminal
from .attack import use_threads
from .options import DataRoot, DataSet, Debug, Device, Json, Limit, Seed, Threads


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A checkpoint, or package.module:callable that makes a module.")
    ],
    eps: Annotated[
        float, typer.Option(help="Radius of the ball around each image, pixels in [0, 1].")
    ],
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    budget: Annotated[
        str, typer.Option(help="quick, standard (AutoAttack's and more) or thorough.")
    ] = "standard",
    data_set: DataSet = "digits",
    limit: Limit = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            help="Another model, whose adversarial images are tried, too; may be given again.",
            metavar="MODEL",
        ),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Seed = 0,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the verdict; by default runs/evaluate-<model>-<norm>-<eps>."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how robust a classifier is when everything attacks it, and whether to believe that.

    Attacks run from the cheapest to the dearest on the images that still stand. An evaluation that
    was stopped goes on; with a failed check it ends with exit code 1.
    """
    use_threads(threads, small=data_set == "digits" and device == "cpu")
    out = out or Path("runs") / f"evaluate-{slug(Path(model).stem)}-{norm}-{eps:g}"
    found, written = examining.examine(
        model, data_set,
        eps=eps, norm=norm, budget=budget, limit=limit, others=transfer or [], device=device,
        seed=seed, data_root=data_root, out=out,
    )  # fmt: skip
    places = {name: str(place) for name, place in vars(written).items()}
    if as_json:
        terminal.show_json({**files.as_json(found), **places})
    else:
        terminal.show(evaluation_page.tables(found))
        for line in evaluation_page.sentences(found):
            print(line)
        for name, place in places.items():
            print(f"{name:9}{place}")
    if not found.believable:
        raise typer.Exit(1)


def check(
    tables: Annotated[
        str,
        typer.Argument(
            help="The word paper for the 483 numbers of arXiv:1812.00181; a .json or .csv file of "
            "numbers, with data, model, attack, eps, accuracy and so on, see README; a run folder "
            "with its report."
        ),
    ],
    images: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many a number is an average over, where the file does not tell. The paper "
            "attacks test sets of 10,000 images and counts them nowhere; three printed decimals "
            "tell 1000 apart.",
        ),
    ] = reading.IMAGES,
    classes: Annotated[
        int, typer.Option(min=2, help="Of the data sets: a guess is right on one image in so many.")
    ] = 10,
    rule: Annotated[
        str | None, typer.Option(help=f"Only one rule: {', '.join(rules.RULES)}.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if a number fails.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List which published numbers cannot be a true robust accuracy, and why.

    Nothing is run: numbers are held against each other. Of two that contradict each other the one
    that is better for the classifier is wrong, since its attack missed what the other one found.
    """
    read = Tables(reading.read(tables, images), classes)
    found = listing.gather(rules.contradictions(read, rule), read)
    if as_json:
        terminal.show_json(listing.as_json(found, read))
    else:
        print(listing.summary(found, read))
        if found and sys.stdout.isatty():
            terminal.show([listing.as_table(found)])
        else:
            for line in listing.as_lines(found):
                print(line)
        for line in listing.rule_lines(found):
            print(line)
    if strict and any(suspect.severity == "fail" for suspect in found):
        raise typer.Exit(1)
