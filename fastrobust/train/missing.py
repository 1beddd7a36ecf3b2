"""Trains the classifiers that a run folder has no checkpoint of."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..models import checkpoint
from ..runs.context import RunContext
from ..runs.plan import Plan
from ..utils.errors import CheckpointError
from ..utils.processes import Turns, helpers
from ..utils.progress import track
from .recipes import default_config
from .training import train


def train_missing(
    plan: Plan,
    out_dir: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    epochs: int | None = None,
    data_root: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    jobs: int = 1,
) -> dict[str, dict[str, Any]]:
    """Train the classifiers of `plan` that the run folder has no checkpoint of.

    Args:
        plan: Data set, network and seed.
        out_dir: The run folder.
        names: Names of the classifiers, the plan's by default.
        epochs: Number of epochs, the recipes' by default.
        data_root: Where the data files are, as ``data.load`` takes it.
        device: Where to train.
        jobs: Number of processes that share the classifiers, as in :func:`fastrobust.sweep.run`.

    Returns:
        What ``checkpoint.read_facts`` returns for each, by name.

    Raises:
        CheckpointError: A checkpoint in the folder is damaged, or was trained otherwise.
    """
    context, names = RunContext(plan, out_dir, data_root, device), names or plan.models
    missing = [name for name in names if not context.checkpoint_path(name).exists()]
    # The longest first, so that no process is left with it at the end.
    missing.sort(key=lambda name: default_config(plan.known_as, name).attack is None)
    jobs = max(1, min(jobs, len(missing)))
    with helpers(jobs, _help, context, epochs, missing) as turns:
        _train(context, epochs, turns.of(missing), track)
    expected = {"seed": plan.seed, "digest": context.load_data(("test",)).digest, "net": plan.net}
    if epochs is not None:
        expected["epochs"] = epochs
    facts = {}
    for name in names:
        path = context.checkpoint_path(name)
        if not path.exists():  # a helper died: here its error shows
            _train(context, epochs, [name], track)
        facts[name] = checkpoint.read_facts(path)
        trained = {**facts[name]["config"], **facts[name]}
        for key, value in expected.items():
            if trained.get(key) != value:
                raise CheckpointError(
                    f"{path} must be trained with {key} {value}, got {trained.get(key)}; "
                    "give another folder"
                )
    return facts


def _help(turns: Turns, context: RunContext, epochs: int | None, names: Sequence[str]) -> None:
    """Train in a helper process, silently."""
    _train(context, epochs, turns.of(names))


def _train(
    context: RunContext, epochs: int | None, names: Iterable[str], progress: Any = None
) -> None:
    """Train the classifiers of these names; without `progress` silently."""
    plan, data_set = context.plan, None
    changes: dict[str, Any] = {"net": plan.net, **({} if epochs is None else {"epochs": epochs})}
    for name in names:
        data_set = data_set or context.load_data()
        config = default_config(plan.known_as, name, **changes)
        path = context.checkpoint_path(name)
        train(data_set, name, config, path, plan.seed, context.device, progress)
