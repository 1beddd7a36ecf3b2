"""Looks at one thing from the command line: this build, a checkpoint, a run folder, one attack."""

import importlib
import os
import platform
import re
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from .. import attacks, data, engine
from ..models import checkpoint
from ..models.classifier import Classifier, as_classifier
from ..ops.building import build_info
from ..report import results
from ..runs.folder import save_npz


def build_line() -> str:
    """Say in a few words what was built."""
    facts = build_info()
    kind = f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU build"
    return f"{kind}, {facts['cpu']}, torch {torch.__version__}, Python {platform.python_version()}"


def facts(what: str | None) -> dict[str, Any]:
    """Return what is known of a checkpoint or a run folder; of this build if `what` is None.

    Raises:
        FileNotFoundError, CheckpointError, StoreError: There is no such thing, or it is damaged.
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


def load_model(name: str, device: str) -> Classifier:
    """Return the classifier of a checkpoint, or of ``package.module:callable``.

    Args:
        name: A file, or where to find a module, or a callable that makes one without arguments;
            the working directory is searched first.
        device: Where to put it.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged or foreign.
        ImportError, AttributeError: There is no such callable.
        TypeError: What it gives is not a ``torch.nn.Module``.
    """
    module, colon, attribute = name.partition(":")
    if not colon or os.path.exists(name):
        return checkpoint.load(name, device=device)
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    finally:
        sys.path.pop(0)
    made = found if isinstance(found, nn.Module) else found()
    if not isinstance(made, nn.Module):
        raise TypeError(f"{name} must give a torch.nn.Module, got {type(made).__name__}")
    return as_classifier(made.to(device))


def speed(
    model: str, *, image: str | None, device: str, precision: str, batch: int = 64
) -> dict[str, Any]:
    """Say by which way a classifier is attacked, why, and how fast its gradients come.

    A gradient is one forward and one backward to the input of random images, loss and decision
    included; autograd's own are taken in turn with them.

    Args:
        model: A checkpoint, or ``package.module:callable``.
        image: Shape such as "3x32x32"; by default that of the data set that a checkpoint names.
        device: Where to compute.
        precision: Of the network, see :func:`fastrobust.engine.prepare`.
        batch: Images at once.

    Raises:
        ValueError: `image` is no shape, or is missing where nothing else tells it.
    """
    classifier = load_model(model, device)
    shape = image_shape(image, model)
    x = torch.rand(batch, *shape, device=device)
    y, ones = torch.zeros(batch, dtype=torch.int64, device=device), torch.ones(batch, device=device)
    prepared = engine.prepare(classifier, precision)
    ways = {"own": prepared, "autograd": engine.prepare(classifier, backend="autograd")}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(7):
        for way, each in ways.items():
            with engine.oracle(each, x.device) as network:
                start = time.perf_counter()
                network.gradient(x, y, "ce", ones).grad.sum().item()
                seconds[way].append(time.perf_counter() - start)
    own, plain = (batch / median(seconds[way][1:]) for way in ways)
    return {
        "engine": prepared.search.name,
        "precision": precision,
        "why": prepared.search.why,
        "image": "x".join(map(str, shape)),
        "batch": batch,
        "threads": torch.get_num_threads(),
        "images_per_second": round(own, 1),
        "autograd_images_per_second": round(plain, 1),
    }


def image_shape(image: str | None, model: str) -> tuple[int, ...]:
    """Return channels, height and width of "3x32x32", else of the data set of a checkpoint.

    Raises:
        ValueError: `image` is no shape, or is missing where nothing else tells it.
    """
    known = checkpoint.read_facts(model) if os.path.exists(model) else {}
    text = image or _IMAGES.get(known.get("data_set", ""), "none")
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise ValueError(f"--image must be a shape such as 3x32x32, got {text}")
    return tuple(map(int, text.split("x")))


_IMAGES = {
    "digits": "1x8x8", "mnist": "1x28x28", "fashion_mnist": "1x28x28", "cifar10": "3x32x32",
}  # fmt: skip


def attack_once(
    model: str,
    attack: str,
    data_set: str,
    *,
    limit: int | None,
    targeted: bool,
    device: str,
    precision: str,
    seed: int,
    data_root: Path | None,
    save: Path | None,
) -> dict[str, Any]:
    """Attack one classifier on the first test images and return the rates.

    Untargeted attacks move away from the true label. `save` gets the adversarial images and every
    column of the result as arrays.

    Raises:
        ValueError: `attack` is no attack's repr, a number is out of range, or the precision does
            not suit the model.
    """
    rule = attacks.from_repr(attack)
    classifier = engine.prepare(load_model(model, device), precision)
    test = data.load(data_set, data_root, splits=("test",))
    x, y = test.x_test[:limit].to(device), test.y_test[:limit].to(device)
    goal = {"y": y}
    if targeted:
        goal = {"target": attacks.random_targets(y, test.num_classes, seed)}
    start = time.perf_counter()
    found = rule.run(classifier, x, **goal, seed=seed)
    seconds = time.perf_counter() - start
    if save is not None:
        arrays = {name: column.cpu().numpy() for name, column in {**vars(found), **goal}.items()}
        save_npz(save, arrays)
    won = found.success
    return {
        "attack": repr(rule),
        "images": len(x),
        "clean_accuracy": _mean(classifier.predict(x) == y),
        "accuracy": _mean(found.decision == y),
        "success": _mean(won),
        "claimed": _mean(found.claimed),
        "median_l2": float(found.l2[won].median()) if won.any() else None,
        "median_linf": float(found.linf[won].median()) if won.any() else None,
        "evaluations": int(found.queries.sum()),
        "seconds": round(seconds, 3),
    }


def _mean(flags: torch.Tensor) -> float:
    return round(float(flags.float().mean()), 4)
