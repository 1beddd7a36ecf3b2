"""The options that several commands of the command line share."""

from pathlib import Path
from typing import Annotated

import typer

from ..data import NAMES

DataSet = Annotated[
    str,
    typer.Option(help=f"{', '.join(NAMES)}, npz:PATH or folder:PATH.", metavar="NAME"),
]
DataRoot = Annotated[
    Path | None, typer.Option(help=f"Where the files of {', '.join(NAMES[1:])} are.")
]
Preset = Annotated[
    str,
    typer.Option(
        help="quick (120 test images, short optimisations), cpu (100, longer ones) or paper (all "
        "images, the paper's constants); the grids are the paper's in all."
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Attack only the first so many test images.")
]
Tables = Annotated[
    str | None,
    typer.Option(
        help="Only these tables of the paper, such as 3,5: of 3 to 7, 8 for other codeword "
        "lengths, 9 for other defences, 1 for the search of Figure 1.",
        metavar="N,N",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        "--attacks",
        help="Only these attacks, such as FGSM,PGD; by default all.",
        metavar="NAME,NAME",
    ),
]
Like = Annotated[
    str | None,
    typer.Option(
        help="Which data set an npz: or folder: is a copy of: its training recipe holds, and the "
        "paper's numbers for it stand beside.",
        metavar="NAME",
    ),
]
Net = Annotated[
    str | None,
    typer.Option(help="Network: digits, 40-12, 100-12, plain-40-12, ... by default digits for "
                 "digits and 40-12 for the others."),
]  # fmt: skip
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Passes over the training images instead of the recipe's."),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
Precision = Annotated[
    str,
    typer.Option(
        help="Of the network while an attack searches: fp32, tf32 (on a GPU) or bf16 (the fused "
        "engine); decisions are made in fp32.",
        metavar="NAME",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads; by default 1 for the small network digits, PyTorch's choice for others.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes side by side; by default 2 for digits on a CPU, 1 for others."
    ),
]
Evaluate = Annotated[
    str | None,
    typer.Option(
        help="Evaluate the three classifiers, too, within two radii, and show what is left beside "
        "the tables: quick, standard or thorough.",
        metavar="BUDGET",
    ),
]
Without = Annotated[
    str | None,
    typer.Option(
        help="Savings to do without, which change no rate: first-success, shared-const, prefixes, "
        "clean-gradient; with commas between.",
        metavar="NAME,NAME",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of training, targets and random starts.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; by default runs/<data set>-<preset>.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
