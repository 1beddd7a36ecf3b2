"""``fastrobust sweep``: every experiment of a plan, then the report."""

from pathlib import Path
from typing import Annotated

import typer

from ..paper import presets
from ..report import writer
from ..runs.plan import Plan
from ..sweep import runner
from . import options, terminal


def sweep(
    data_set: options.DataSet = "digits",
    preset: options.Preset = "quick",
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="Read the plan from this JSON file instead of using a preset."),
    ] = None,
    limit: options.Limit = None,
    tables: options.Tables = None,
    attacks: options.Attacks = None,
    like: options.Like = None,
    net: options.Net = None,
    device: options.Device = "cpu",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    jobs: options.Jobs = None,
    without: options.Without = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    data_root: options.DataRoot = None,
    show_plan: Annotated[
        bool, typer.Option("--show-plan", help="Print the plan as JSON and exit.")
    ] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Run every experiment in the plan that has no result yet, then write the report.

    The classifiers are the checkpoints in the models/ folder of the run. Several processes, even
    on several machines, can share one run folder.
    """
    if plan_file is not None:
        plan = Plan.read(plan_file)
        if precision not in ("fp32", plan.precision):
            raise ValueError(
                f"--precision must match the plan's, {plan.precision}, got {precision}; "
                "change it in the plan"
            )
    else:
        plan = presets.make(
            preset, data_set, tables=tables, limit=limit, seed=seed, net=net, like=like,
            only=attacks, precision=precision,
        )  # fmt: skip
    if show_plan:
        terminal.show_json(plan.to_json())
        return
    jobs = options.set_parallelism(plan, device, threads, jobs)
    out = out or options.default_out(plan)
    outcome = runner.run(
        plan, out, data_root=data_root, device=device, jobs=jobs, without=without or ()
    )
    terminal.show_report(writer.write(out), outcome, as_json)
