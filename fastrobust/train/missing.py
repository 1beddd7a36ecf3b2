"""The classifiers of a run folder: where their checkpoints are, and training what is missing."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .. import data
from ..models import checkpoint
from ..runs.folder import checkpoint_path
from ..runs.plan import Plan
from ..utils.errors import CheckpointError
from ..utils.processes import Turns, helpers_on
from ..utils.progress import track
from .training import default_config, train


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
        plan: Says data set, network and seed.
        out_dir: The run folder.
        names: Which classifiers, the plan's by default.
        epochs: How long, instead of what the recipes say.
        data_root: Where the data files are, as ``data.load`` takes it.
        device: Where to train.
        jobs: Number of processes that share the classifiers, as in :func:`fastrobust.sweep.run`.

    Returns:
        What ``checkpoint.read_facts`` says of each, by name.

    Raises:
        CheckpointError: A checkpoint in the folder is damaged, or was trained otherwise.
    """
    names = names or plan.models
    missing = [name for name in names if not checkpoint_path(out_dir, name).exists()]
    # The longest first, so that no process is left with it at the end.
    missing.sort(key=lambda name: default_config(plan.known_as, name).attack is None)
    turns, jobs = Turns(), max(1, min(jobs, len(missing)))
    helpers = helpers_on(jobs, _help, plan, epochs, out_dir, data_root, device, missing, turns)
    _train(plan, epochs, out_dir, data_root, device, turns.of(missing), track)
    for helper in helpers:
        helper.join()
    held_out = data.load(plan.data_set, data_root, splits=("test",))
    wanted = {"seed": plan.seed, "digest": held_out.digest, "net": plan.net}
    if epochs is not None:
        wanted["epochs"] = epochs
    found = {}
    for name in names:
        path = checkpoint_path(out_dir, name)
        if not path.exists():  # a helper died: here its error shows
            _train(plan, epochs, out_dir, data_root, device, [name], track)
        facts = found[name] = checkpoint.read_facts(path)
        have = {**facts["config"], **facts}
        for key, value in wanted.items():
            if have.get(key) != value:
                raise CheckpointError(
                    f"{path} must be trained with {key} {value}, got {have.get(key)}; "
                    "give another folder"
                )
    return found


def _help(
    plan: Plan,
    epochs: int | None,
    out_dir: str | os.PathLike[str],
    data_root: str | os.PathLike[str] | None,
    device: str | torch.device,
    names: Sequence[str],
    turns: Turns,
) -> None:
    """Train, and say nothing."""
    _train(plan, epochs, out_dir, data_root, device, turns.of(names))


def _train(
    plan: Plan,
    epochs: int | None,
    out_dir: str | os.PathLike[str],
    data_root: str | os.PathLike[str] | None,
    device: str | torch.device,
    names: Iterable[str],
    progress: Any = None,
) -> None:
    """Train the classifiers of these names; without `progress` silently."""
    data_set = None
    changes: dict[str, Any] = {"net": plan.net}
    if epochs is not None:
        changes["epochs"] = epochs
    for name in names:
        data_set = data_set or data.load(plan.data_set, data_root)
        config = default_config(plan.known_as, name, **changes)
        path = checkpoint_path(out_dir, name)
        train(data_set, name, config, path, seed=plan.seed, device=device, progress=progress)
