"""``fastrobust info``: this build, a checkpoint, a run folder, or the speed of a model."""

import platform
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from .. import engine
from ..models import checkpoint
from ..ops.building import build_info
from ..report import results
from . import options, terminal
from .loading import image_shape, load_model


def info(
    what: Annotated[
        str | None, typer.Argument(help="Checkpoint or run folder. Default: this build.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Show which engine computes the gradients of this model (a checkpoint or "
            "package.module:callable), "
            "why, and how many per second."
        ),
    ] = None,
    image: options.Image = None,
    device: options.Device = "cpu",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Describe this build, a checkpoint or a run folder, or show which engine a model gets."""
    if model is not None and what is not None:
        raise ValueError(f"info takes WHAT or --model, not both, got {what} and --model {model}")
    if model is not None:
        options.set_threads(threads, small=False)
        facts = speed(model, image=image, device=device, precision=precision)
    else:
        facts = describe(what)
    terminal.show_facts(facts, as_json)


def build_line() -> str:
    """Return the build in a few words: CPU or CUDA, instruction set, versions."""
    facts = build_info()
    kind = f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU build"
    return f"{kind}, {facts['cpu']}, torch {torch.__version__}, Python {platform.python_version()}"


def describe(what: str | None) -> dict[str, Any]:
    """Return the facts of a checkpoint or a run folder; those of this build if `what` is None.

    Raises:
        FileNotFoundError, CheckpointError, StoreError: It does not exist or is damaged.
    """
    if what is None:
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return {**build_info(), "threads": torch.get_num_threads(), "gpus": gpus}
    if not Path(what).is_dir():
        return checkpoint.read_facts(what)
    run = results.read(what)
    return {
        "data_set": run.plan.data_set,
        "preset": run.plan.preset,
        "images": run.facts["data"]["images"],
        "models": list(run.plan.models),
        "cells": len(run.plan.cells),
        "measured": len(run.results),
        "failed": len(run.failures),
        "seconds": round(sum(result.facts["seconds"] for result in run.results), 1),
    }


def speed(
    model: str, *, image: str | None, device: str, precision: str, batch: int = 64
) -> dict[str, Any]:
    """Return which engine attacks a classifier, why, and its input gradients per second.

    A gradient is one forward and one backward pass to the input of random images, loss and
    decision included. The engine and autograd are timed in turn.

    Args:
        model: A checkpoint, or ``package.module:callable``.
        image: Shape such as "3x32x32"; by default that of the data set that a checkpoint names.
        device: Where to compute.
        precision: Precision of the network, see :func:`fastrobust.engine.prepare`.
        batch: Images at once.

    Raises:
        ValueError: `image` is not a shape, or is None where no checkpoint names a data set.
    """
    classifier = load_model(model, device)
    shape = image_shape(image, model)
    x = torch.rand(batch, *shape, device=device)
    y, ones = torch.zeros(batch, dtype=torch.int64, device=device), torch.ones(batch, device=device)
    prepared = engine.prepare(classifier, precision)
    ways = {"engine": prepared, "autograd": engine.prepare(classifier, backend="autograd")}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(7):
        for way, candidate in ways.items():
            with engine.oracle(candidate, x.device) as network:
                start = time.perf_counter()
                network.gradient(x, y, "ce", ones).grad.sum().item()
                seconds[way].append(time.perf_counter() - start)
    fused, autograd = (batch / median(seconds[way][1:]) for way in ways)
    return {
        "engine": prepared.search.name,
        "precision": precision,
        "why": prepared.search.why,
        "image": "x".join(map(str, shape)),
        "batch": batch,
        "threads": torch.get_num_threads(),
        "images_per_second": round(fused, 1),
        "autograd_images_per_second": round(autograd, 1),
    }
