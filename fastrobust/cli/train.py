"""``fastrobust train``: classifiers for a run folder."""

from typing import Annotated

import typer

from ..paper import presets
from ..runs.folder import checkpoint_path
from ..train import missing
from ..train.classifiers import MODEL_NAMES, MODELS, split_name
from . import options, terminal


def train(
    models: Annotated[
        list[str] | None,
        typer.Argument(help=f"Classifiers: {', '.join(MODELS)}. Default: the first three."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Another classifier to train (repeatable).")
    ] = None,
    data_set: options.DataSet = "digits",
    preset: options.Preset = "quick",
    like: options.Like = None,
    net: options.Net = None,
    epochs: options.Epochs = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    jobs: options.Jobs = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train classifiers and save them in the models/ folder of a run; existing ones are kept."""
    names = tuple(dict.fromkeys([*(models or ()), *(model or ())])) or MODEL_NAMES
    for name in names:
        split_name(name)  # an unknown name fails before anything is trained
    plan = presets.make(preset, data_set, seed=seed, net=net, like=like)
    out = out or options.default_out(plan)
    jobs = options.set_parallelism(plan, device, threads, jobs)
    trained = missing.train_missing(
        plan, out, names=names, epochs=epochs, data_root=data_root, device=device, jobs=jobs
    )
    if as_json:
        terminal.show_json(trained)
        return
    for name, facts in trained.items():
        print(f"{name}: accuracy {facts['accuracy']:.4f}, {checkpoint_path(out, name)}")
