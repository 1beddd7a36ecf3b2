"""``fastrobust attack``: one attack on one classifier."""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import data
from ..attacks.base import from_repr
from ..attacks.targets import random_targets
from ..engine.prepared import prepare
from ..runs.folder import save_npz
from . import options, terminal
from .loading import MODEL_HELP, load_model


def attack(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    attack: Annotated[
        str, typer.Argument(help="Attack and its parameters, e.g. \"PGD(eps=0.1, loss='margin')\".")
    ],
    data_set: options.DataSet = "digits",
    limit: options.Limit = 200,
    targeted: Annotated[
        bool, typer.Option("--targeted", help="Attack towards a random other class.")
    ] = False,
    device: options.Device = "cpu",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Save the adversarial images and per-image results to this .npz file."),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Run one attack on one classifier and print its success rate and distances.

    Untargeted attacks move away from the true label.
    """
    options.set_threads(threads, small=data_set == "digits" and device == "cpu")
    rule = from_repr(attack)
    classifier = prepare(load_model(model, device), precision)
    test = data.load(data_set, data_root, splits=("test",))
    x, y = test.x_test[:limit].to(device), test.y_test[:limit].to(device)
    goal = {"y": y}
    if targeted:
        goal = {"target": random_targets(y, test.num_classes, seed)}
    start = time.perf_counter()
    result = rule.run(classifier, x, **goal, seed=seed)
    seconds = time.perf_counter() - start
    if save is not None:
        arrays = {name: column.cpu().numpy() for name, column in {**vars(result), **goal}.items()}
        save_npz(save, arrays)
    success = result.success
    facts = {
        "attack": repr(rule),
        "images": len(x),
        "clean_accuracy": _mean(classifier.predict(x) == y),
        "accuracy": _mean(result.decision == y),
        "success": _mean(success),
        "claimed": _mean(result.claimed),
        "median_l2": float(result.l2[success].median()) if success.any() else None,
        "median_linf": float(result.linf[success].median()) if success.any() else None,
        "evaluations": int(result.queries.sum()),
        "seconds": round(seconds, 3),
    }
    terminal.show_facts(facts, as_json)


def _mean(flags: torch.Tensor) -> float:
    return round(float(flags.float().mean()), 4)
