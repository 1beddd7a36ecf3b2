"""Four columns of CWL2 with every optimisation of a sweep, against the same cell by cell.

Run ``python -m benches.bench_sweep [--images 100] [--rounds 3] [--models DIR]``: minutes for each
of the three classifiers, and half a minute each to train them where no run folder has them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import torch

import fastrobust as fr
from fastrobust.runs.folder import checkpoint_path
from fastrobust.runs.plan import Cell
from fastrobust.sweep.collect import Measurement
from fastrobust.sweep.measure import measure
from fastrobust.sweep.options import SweepOptions
from fastrobust.sweep.testbed import Testbed
from fastrobust.train.classifiers import MODEL_NAMES
from fastrobust.train.recipes import default_config
from fastrobust.train.training import train
from fastrobust.utils import malloc

from .timer import Timing, ratio

ATTACK = "CWL2(initial_const={}, max_steps=100, learning_rate=0.05)"
CONSTS = (0.01, 0.1, 1, 10)
CELLS = [Cell(5, "CWL2", "initial_const", c, "m", ATTACK.format(c), targeted=True) for c in CONSTS]
NONE = SweepOptions(**{field.name: False for field in fields(SweepOptions)})


def sweep(testbed: Testbed, options: SweepOptions, together: bool) -> list[Measurement]:
    """Measure all columns, in one group or one after the other; only rates count."""
    measurements: dict[Cell, Measurement] = {}
    for group in [CELLS] if together else [[cell] for cell in CELLS]:
        for _, completed in measure(group, testbed, first_success=True, options=options):
            measurements |= completed
    return [measurements[cell] for cell in CELLS]


def executed(cells: list[Measurement]) -> int:
    """Forwards and backwards of one row that were made, empty slots' included."""
    return sum(cell.facts["executed"] for cell in cells)


def timed(call: Callable[[], list[Measurement]]) -> tuple[float, list[Measurement]]:
    """Call once; return the seconds, too."""
    begun = time.perf_counter()
    cells = call()
    return time.perf_counter() - begun, cells


def compare(testbed: Testbed, rounds: int) -> str:
    """Run both ways in turn, `rounds` times, and each option by itself once."""
    ways: dict[str, Callable[[], list[Measurement]]] = {
        "cell by cell": lambda: sweep(testbed, NONE, together=False),
        "scheduled": lambda: sweep(testbed, SweepOptions(), together=True),
    }
    results: dict[str, list[Measurement]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken, results[name] = timed(way)
            seconds[name].append(taken)
    plain, saved = (Timing(name, taken[0], tuple(taken)) for name, taken in seconds.items())
    middle, low, high = ratio(plain, saved)
    naive, scheduled = results.values()
    spent = executed(naive)
    asked = sum(cell.facts["naive"] for cell in naive)
    lines = [
        f"  evaluations {spent} cell by cell ({asked} without its empty slots), "
        f"{executed(scheduled)} scheduled: {spent / executed(scheduled):.2f} times fewer "
        f"({asked / executed(scheduled):.2f})",
        f"  seconds {plain.median:.1f} and {saved.median:.1f}: "
        f"{middle:.2f}x ({low:.2f}-{high:.2f}), {rounds} rounds",
        *_alone(testbed, spent),
        *_rates(naive, scheduled),
    ]
    return "\n".join(lines)


def _alone(testbed: Testbed, spent: int) -> Iterator[str]:
    """Yield what each of the two options for searches contributes by itself, run once."""
    for name in ("first_success", "shared_const"):
        options = replace(NONE, **{name: True})
        taken, cells = timed(lambda options=options: sweep(testbed, options, together=True))
        yield (
            f"  {name.replace('_', '-')} alone: {executed(cells)} evaluations, "
            f"{spent / executed(cells):.2f} times fewer; {taken:.1f} s"
        )


def _rates(naive: list[Measurement], scheduled: list[Measurement]) -> Iterator[str]:
    """Yield the success rate of every column, and whether it is the same images."""
    for const, one, other in zip(CONSTS, naive, scheduled, strict=True):
        a, b = one.rows["success"], other.rows["success"]
        yield (
            f"  c = {const}: success {a.mean():.3f} and {b.mean():.3f}, "
            f"the same in {(a == b).sum()} of {len(a)} images"
        )


@contextmanager
def trained(
    folder: Path | None, names: Sequence[str] = MODEL_NAMES
) -> Iterator[dict[str, fr.Classifier]]:
    """Yield classifiers: a run folder's, or trained as by default in a temporary folder."""
    if folder:
        yield {name: fr.checkpoint.load(checkpoint_path(folder, name)) for name in names}
        return
    digits = fr.data.load("digits")
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "model.safetensors"
        yield {name: train(digits, name, default_config("digits", name), path) for name in names}


def main(arguments: list[str] | None = None) -> None:
    """Print evaluations, seconds and rates for each classifier."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="two or more")
    parser.add_argument("--models", type=Path, help="run folder with the three classifiers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    malloc.keep_freed_memory()  # as the command line does
    digits = fr.data.load("digits", splits=("test",))
    x, y = digits.x_test[: options.images], digits.y_test[: options.images]
    with trained(options.models) as models:
        for name, model in models.items():
            testbed = Testbed(model, x, y, digits.num_classes, batch=len(x), seed=0)
            _ = testbed.clean  # computed once, before the clock runs
            print(f"{name}, {ATTACK.format(list(CONSTS))}, targeted, {len(x)} digits", flush=True)
            print(compare(testbed, options.rounds), flush=True)


if __name__ == "__main__":
    main()
