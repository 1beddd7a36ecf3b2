"""The command ``fastrobust``: words in, tables and pages out; all work is done below."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .. import engine
from .._version import __version__
from ..evaluation import suite
from ..models import by_name
from ..paper import presets
from ..report import writer
from ..runs import folder
from ..runs.plan import Plan
from ..sweep import runner
from ..sweep.options import SweepOptions
from ..train import missing
from ..train.classifiers import MODEL_NAMES, MODELS, split_name
from ..utils import malloc
from ..utils.text import slug
from . import attack, check, loading, terminal
from . import evaluate as examining
from .attack import use_threads
from .options import (
    DataRoot,
    DataSet,
    Debug,
    Device,
    Epochs,
    Evaluate,
    Jobs,
    Json,
    Like,
    Limit,
    Net,
    Only,
    Out,
    Precision,
    Preset,
    Seed,
    Tables,
    Threads,
    Without,
)

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure how robust a classifier really is.\n\n"
    "Start with [bold]fastrobust paper[/bold]: it trains the classifiers of Saito and Roy "
    "(2018) on real digits, attacks them, and writes one page that shows the paper's view beside "
    "the honest one, in two to four minutes on two cores.\n\n"
    "Exit codes: 0 all done, 1 some cells failed (they are named), 2 wrong use.",
    rich_markup_mode="rich",
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `arguments` are those of the process by default."""
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = typer.main.get_command(app)
    # Looked up by hand: an error can come before the options are parsed.
    with terminal.one_line_errors(debug="--debug" in given):
        malloc.keep_freed_memory()
        sys.exit(command(given, prog_name="fastrobust", standalone_mode=False))


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version and build this is.")
    ] = False,
) -> None:
    if version:
        print(f"fastrobust {__version__} ({loading.build_line()})")
        raise typer.Exit


@app.command()
def paper(
    data_set: DataSet = "digits",
    preset: Preset = "quick",
    limit: Limit = None,
    tables: Tables = None,
    only: Only = None,
    like: Like = None,
    net: Net = None,
    epochs: Epochs = None,
    device: Device = "cpu",
    precision: Precision = "fp32",
    threads: Threads = None,
    jobs: Jobs = None,
    evaluate: Evaluate = None,
    without: Without = None,
    seed: Seed = 0,
    out: Out = None,
    data_root: DataRoot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train what is missing, run the sweep, write the report, and print its tables.

    What is in the run folder already is reused: a run that was stopped goes on, a second one
    only prints.
    """
    left_out = _savings(without)  # before anything is trained
    if evaluate is not None and evaluate not in suite.BUDGETS:
        raise ValueError(f"--evaluate must be {', '.join(suite.BUDGETS)}, got {evaluate!r}")
    plan = presets.make(
        preset, data_set, tables=_numbers(tables), limit=limit, seed=seed, net=net, like=like,
        only=_words(only), precision=precision,
    )  # fmt: skip
    if precision != "fp32":  # does it suit? Before anything is trained, too
        engine.prepare(by_name(plan.net).to(device), precision)
    out = out or _default_out(plan)
    jobs = _settle(plan, device, threads, jobs)
    missing.train_missing(plan, out, epochs=epochs, data_root=data_root, device=device, jobs=jobs)
    _sweep_and_report(plan, out, data_root, device, jobs, left_out, as_json, evaluate)


@app.command()
def train(
    models: Annotated[
        list[str] | None,
        typer.Argument(help=f"Which of {', '.join(MODELS)}; the first three by default."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="The same as an option, once or several times.")
    ] = None,
    data_set: DataSet = "digits",
    preset: Preset = "quick",
    like: Like = None,
    net: Net = None,
    epochs: Epochs = None,
    device: Device = "cpu",
    threads: Threads = None,
    jobs: Jobs = None,
    seed: Seed = 0,
    out: Out = None,
    data_root: DataRoot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train classifiers into a run folder's models/, unless they are there already."""
    names = tuple(dict.fromkeys([*(models or ()), *(model or ())])) or MODEL_NAMES
    for name in names:
        split_name(name)  # before anything is trained
    plan = presets.make(preset, data_set, seed=seed, net=net, like=like)
    out = out or _default_out(plan)
    jobs = _settle(plan, device, threads, jobs)
    facts = missing.train_missing(
        plan, out, names=names, epochs=epochs, data_root=data_root, device=device, jobs=jobs
    )
    if as_json:
        terminal.show_json(facts)
        return
    for name, found in facts.items():
        print(f"{name}: accuracy {found['accuracy']:.4f}, {folder.checkpoint_path(out, name)}")


@app.command("sweep")
def sweep_command(
    data_set: DataSet = "digits",
    preset: Preset = "quick",
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="A plan of your own in JSON, instead of a preset.")
    ] = None,
    limit: Limit = None,
    tables: Tables = None,
    only: Only = None,
    like: Like = None,
    net: Net = None,
    device: Device = "cpu",
    precision: Precision = "fp32",
    threads: Threads = None,
    jobs: Jobs = None,
    without: Without = None,
    seed: Seed = 0,
    out: Out = None,
    data_root: DataRoot = None,
    show_plan: Annotated[
        bool, typer.Option("--show-plan", help="Print the plan as JSON and do nothing.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure every cell of a plan that the run folder does not hold yet, then report.

    The classifiers are the checkpoints in the folder's models/. Several processes, also on several
    machines, may work on one folder.
    """
    if plan_file is not None:
        plan = Plan.read(plan_file)
        if precision not in ("fp32", plan.precision):
            raise ValueError(
                f"--precision must be the plan's, {plan.precision}, got {precision}; "
                "write it into the plan"
            )
    else:
        plan = presets.make(
            preset, data_set, tables=_numbers(tables), limit=limit, seed=seed, net=net, like=like,
            only=_words(only), precision=precision,
        )  # fmt: skip
    if show_plan:
        terminal.show_json(plan.to_json())
        return
    jobs = _settle(plan, device, threads, jobs)
    out = out or _default_out(plan)
    _sweep_and_report(plan, out, data_root, device, jobs, _savings(without), as_json)


@app.command("report")
def report_command(
    out: Annotated[Path, typer.Argument(help="The run folder.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write writer.html, tables.md and tables.csv from a run folder, finished or not."""
    _show_report(writer.write(out), {}, as_json)


app.command()(check.evaluate)
app.command()(check.check)
app.command()(attack.attack)
app.command()(attack.info)
app.command()(attack.lipschitz)


def _settle(plan: Plan, device: str, threads: int | None, jobs: int | None) -> int:
    """Set PyTorch's threads for this process, and return the number of processes."""
    small = plan.net == "digits" and device == "cpu"
    use_threads(threads, small)
    return jobs or (min(2, os.cpu_count() or 1) if small else 1)


def _sweep_and_report(
    plan: Plan,
    out: Path,
    data_root: Path | None,
    device: str,
    jobs: int,
    without: list[str],
    as_json: bool,
    budget: str | None = None,
) -> None:
    outcome = runner.run(plan, out, data_root=data_root, device=device, jobs=jobs, without=without)
    if budget is not None:
        examining.examine_run(plan, budget, device=device, data_root=data_root, out=out)
    _show_report(writer.write(out), asdict(outcome), as_json)
    if outcome.failed:
        terminal.say(f"{len(outcome.failed)} cells failed:")
        for line in outcome.failed:
            terminal.say(f"  {line}")
        raise typer.Exit(1)


def _show_report(written: writer.ReportFiles, outcome: dict, as_json: bool) -> None:
    places = {name: str(getattr(written, name)) for name in ("page", "markdown", "csv", "pictures")}
    if as_json:
        terminal.show_json({**outcome, **places})
        return
    terminal.show(written.tables)
    for name, place in places.items():
        print(f"{name:9}{place}")


def _default_out(plan: Plan) -> Path:
    return Path("runs") / slug(f"{plan.data_set}-{plan.preset}")


def _savings(text: str | None) -> list[str]:
    """Return the names of "first-success,prefixes", each of them known."""
    names = _words(text) or []
    SweepOptions.without(names)
    return names


def _words(text: str | None) -> list[str] | None:
    """Return the words of "FGSM,PGD", None of nothing."""
    return text.split(",") if text else None


def _numbers(text: str | None) -> list[int] | None:
    """Return the table numbers of "3,5"."""
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--tables must be numbers with commas between, got {text!r}") from None
