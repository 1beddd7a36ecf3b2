"""The commands that look at one classifier: attack, info and lipschitz."""

import math
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..report import norm_tables
from ..report.claims import norms as norm_claims
from . import lipschitz as bounds
from . import loading, terminal
from .options import DataRoot, DataSet, Debug, Device, Json, Limit, Precision, Seed, Threads


def attack(
    model: Annotated[
        str, typer.Argument(help="A checkpoint, or package.module:callable that makes a module.")
    ],
    attack: Annotated[str, typer.Argument(help="Such as \"PGD(eps=0.1, loss='margin')\".")],
    data_set: DataSet = "digits",
    limit: Limit = 200,
    targeted: Annotated[
        bool, typer.Option("--targeted", help="Reach a random other class, not just leave one.")
    ] = False,
    device: Device = "cpu",
    precision: Precision = "fp32",
    threads: Threads = None,
    seed: Seed = 0,
    data_root: DataRoot = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the adversarial images and all columns: a .npz.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Attack one classifier, yours or one of ours, with one attack."""
    use_threads(threads, small=data_set == "digits" and device == "cpu")
    found = loading.attack_once(
        model, attack, data_set,
        limit=limit, targeted=targeted, device=device, precision=precision, seed=seed,
        data_root=data_root, save=save,
    )  # fmt: skip
    if as_json:
        terminal.show_json(found)
        return
    for name, value in found.items():
        print(f"{name:20} {value}")


def info(
    what: Annotated[
        str | None, typer.Argument(help="A checkpoint or a run folder; this build by default.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="How a checkpoint, or what package.module:callable makes, is attacked: "
            "by which engine, why, and how many gradients a second."
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Its images, if no data set tells.", metavar="3x32x32")
    ] = None,
    device: Device = "cpu",
    precision: Precision = "fp32",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what this build, a checkpoint or a run folder is, or how fast a model is attacked."""
    if model is not None and what is not None:
        raise ValueError(f"info must be asked about one thing, got {what} and --model {model}")
    if model is not None:
        use_threads(threads, small=False)
        facts = loading.speed(model, image=image, device=device, precision=precision)
    else:
        facts = loading.facts(what)
    if as_json:
        terminal.show_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:20} {value}")


def lipschitz(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, which stand for their classifiers, checkpoints, or "
            "package.module:callable.",
            metavar="OUT_OR_MODEL...",
        ),
    ],
    image: Annotated[
        str | None, typer.Option(help="Images, if no data set tells.", metavar="3x32x32")
    ] = None,
    data_set: Annotated[
        str | None,
        typer.Option(
            help="Of which test images tell a lower bound and certified radii.", metavar="NAME"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Only the first so many test images.")] = 100,
    eps: Annotated[
        str | None,
        typer.Option(
            help="L2 radii at which both sides of the paper's inequality are measured.",
            metavar="E,E",
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Write Figure 4: an .svg; by default lipschitz.svg in a run folder."),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    data_root: DataRoot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Bound how fast a classifier's scores can change, layer by layer: Figure 4 of the paper."""
    use_threads(threads, small=False)
    radii = _decimals(eps)
    found = bounds.find(
        models, image=image, data_set=data_set, limit=limit, eps=radii, device=device,
        data_root=data_root,
    )  # fmt: skip
    if picture is None and len(models) == 1 and Path(models[0]).is_dir():
        picture = Path(models[0]) / "lipschitz.svg"
    if picture is not None:
        bounds.write_picture(found, picture)
    if as_json:
        terminal.show_json({**bounds.as_json(found), "picture": picture and str(picture)})
        return
    terminal.show(norm_tables.tables(found))
    for line in (norm_tables.LEGEND, *norm_claims.sentences(found)):
        print(line)
    if picture is not None:
        print(f"picture  {picture}")


def use_threads(threads: int | None, small: bool) -> None:
    """Set PyTorch's threads for this process.

    A layer of the network digits takes microseconds. Two threads gain little on it, and where
    another process wants a core they wait for each other: attacks took 20 times as long. So it
    gets one thread, and where it can a second process.
    """
    if threads is None and small:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def _decimals(text: str | None) -> list[float]:
    """Return the numbers of "0.1,0.5", none of them negative."""
    try:
        found = [float(word) for word in text.split(",")] if text else []
    except ValueError:
        found = [-1.0]
    if not all(0 <= value < math.inf for value in found):
        raise ValueError(f"--eps must be numbers >= 0 with commas between, got {text!r}")
    return found
