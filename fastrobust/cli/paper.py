"""``fastrobust paper``: train, sweep, evaluate and report in one command."""

from .. import engine
from ..models import by_name
from ..paper import presets
from ..report import writer
from ..sweep import runner
from ..sweep.options import SweepOptions
from ..train import missing
from . import evaluate as evaluating
from . import options, terminal


def paper(
    data_set: options.DataSet = "digits",
    preset: options.Preset = "quick",
    limit: options.Limit = None,
    tables: options.Tables = None,
    attacks: options.Attacks = None,
    like: options.Like = None,
    net: options.Net = None,
    epochs: options.Epochs = None,
    device: options.Device = "cpu",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    jobs: options.Jobs = None,
    evaluate: options.Evaluate = None,
    without: options.Without = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train missing classifiers, run the sweep, write the report and print its tables.

    Existing results in the run folder are reused: an interrupted run resumes; for a completed
    run, only the tables are printed.
    """
    # Everything is checked before anything is trained.
    SweepOptions.without(without or ())
    plan = presets.make(
        preset, data_set, tables=tables, limit=limit, seed=seed, net=net, like=like, only=attacks,
        precision=precision,
    )  # fmt: skip
    if precision != "fp32":
        engine.prepare(by_name(plan.net).to(device), precision)
    out = out or options.default_out(plan)
    jobs = options.set_parallelism(plan, device, threads, jobs)
    missing.train_missing(plan, out, epochs=epochs, data_root=data_root, device=device, jobs=jobs)
    outcome = runner.run(
        plan, out, data_root=data_root, device=device, jobs=jobs, without=without or ()
    )
    if evaluate is not None:
        evaluating.examine_run(plan, evaluate, device=device, data_root=data_root, out=out)
    terminal.show_report(writer.write(out), outcome, as_json)
