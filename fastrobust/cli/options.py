"""The options that several commands share, and the defaults that follow from them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer

from ..data import NAMES
from ..evaluation.suite import BUDGETS
from ..runs.plan import Plan
from ..utils.text import slug

T = TypeVar("T")


def comma_separated(convert: Callable[[str], T], kind: str) -> Callable[[str], list[T]]:
    """Return the parser of an option such as ``--tables 3,5``; errors name the `kind` of item."""

    def parse(text: str) -> list[T]:
        try:
            return [convert(item) for item in text.split(",")]
        except ValueError:
            raise typer.BadParameter(f"must be {kind} separated by commas, got {text!r}") from None

    return parse


def _budget(text: str) -> str:
    if text not in BUDGETS:
        raise typer.BadParameter(f"must be one of {', '.join(BUDGETS)}, got {text!r}")
    return text


DataSet = Annotated[
    str,
    typer.Option(help=f"Data set: {', '.join(NAMES)}, npz:PATH or folder:PATH.", metavar="NAME"),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help=f"Directory with the files of {', '.join(NAMES[1:])}. Default: $FASTROBUST_DATA, "
        "otherwise ./data."
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="Preset: quick (120 test images, few optimisation steps), cpu (100 images, more "
        "steps) or paper (all images, the paper's constants). All use the paper's parameter grids."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Attack only the first N test images.")]
Tables = Annotated[
    Sequence[int] | None,
    typer.Option(
        help="Only run these tables, e.g. 3,5. 1: the search behind Figure 1; 3-7: the paper's "
        "tables; 8: codeword lengths; 9: other defences.",
        metavar="N,N",
        parser=comma_separated(int, "numbers"),
    ),
]
Attacks = Annotated[
    Sequence[str] | None,
    typer.Option(
        help="Only run these attacks, e.g. FGSM,PGD. Default: all.",
        metavar="NAME,NAME",
        parser=comma_separated(str, "names"),
    ),
]
Like = Annotated[
    str | None,
    typer.Option(
        help="Treat an npz: or folder: data set as this one: use its training recipe and show the "
        "paper's numbers for comparison.",
        metavar="NAME",
    ),
]
Net = Annotated[
    str | None,
    typer.Option(
        help="Network: digits (small), 40-12, 100-12, plain-40-12, ... Default: digits for the "
        "digits data set, otherwise 40-12."
    ),
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Override the recipe's number of training epochs.")
]
Device = Annotated[str, typer.Option(help="Device to compute on: cpu, cuda, cuda:1, ...")]
Precision = Annotated[
    str,
    typer.Option(
        help="Network precision during the attack: fp32, tf32 (GPU only) or bf16 (fused engine "
        "only). Success is always verified in fp32.",
        metavar="NAME",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of CPU threads. Default: 1 to train or attack the small digits network, "
        "otherwise PyTorch's default.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of parallel processes. Default: 2 for the digits network on a CPU, "
        "otherwise 1.",
    ),
]
Evaluate = Annotated[
    str | None,
    typer.Option(
        help="Also evaluate the three classifiers at eps 0.1 and 0.2, with this budget (quick, "
        "standard or thorough), and show their robust accuracy next to the tables.",
        metavar="BUDGET",
        parser=_budget,
    ),
]
Without = Annotated[
    Sequence[str] | None,
    typer.Option(
        help="Comma-separated list of optimisations to disable; rates stay the same. first-success "
        "(stop searches early), shared-const (reuse runs at the same c), prefixes (take short runs "
        "from long ones), clean-gradient (compute the first gradient once).",
        metavar="NAME,NAME",
        parser=comma_separated(str, "names"),
    ),
]
Image = Annotated[
    str | None,
    typer.Option(
        help="Image shape: channels x height x width. Default: the shape recorded in the run "
        "folder or checkpoint, if any.",
        metavar="3x32x32",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Out = Annotated[Path | None, typer.Option(help="Run folder. Default: runs/<data set>-<preset>.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def default_out(plan: Plan) -> Path:
    """Return the run folder of a plan for which ``--out`` is not given."""
    return Path("runs") / slug(f"{plan.data_set}-{plan.preset}")


def set_threads(threads: int | None, *, small: bool) -> None:
    """Set PyTorch's number of threads for this process.

    A layer of the small digits network takes microseconds. A second thread gains little there,
    and when another process competes for the core, the threads wait for each other: attacks took
    20 times as long. So the default for a small network is one thread (and a second process).
    """
    if threads is None and small:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def set_parallelism(plan: Plan, device: str, threads: int | None, jobs: int | None) -> int:
    """Set PyTorch's number of threads for a plan and return its number of processes."""
    small = plan.net == "digits" and device == "cpu"
    set_threads(threads, small=small)
    return jobs or (min(2, os.cpu_count() or 1) if small else 1)
