"""CWL2 and DeepFool against torchattacks, foolbox and adv-lib, whichever are there.

Run ``python -m benches.bench_peers [--images 100] [--rounds 5] [--models DIR]``; ``peers.md`` says
how to install them beside the project, and what the figures mean.
"""

import argparse
import importlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastrobust as fr
from fastrobust.utils import malloc

from .bench_sweep import trained
from .timer import interleave, ratio

NAME = "O:SOFTMAX:CE"
OURS = "fastrobust"
PEERS = {"torchattacks": "torchattacks", "foolbox": "foolbox", "adv-lib": "adv_lib.attacks"}


class Task(NamedTuple):
    """What everybody does.

    Attributes:
        name: Heading of its table.
        steps: Adam's steps for each c, or DeepFool's at most.
        searches: Values of c, or 0 for DeepFool.
        targeted: Reach a random other class, else leave the label.
        first_success: End the steps for a c when the objective no longer falls.
    """

    name: str
    steps: int
    searches: int = 0
    targeted: bool = False
    first_success: bool = True


TASKS = (
    Task("CWL2, one c, untargeted", 100, 1),
    Task("CWL2, one c, targeted", 100, 1, targeted=True),
    Task("CWL2, 5 values of c, untargeted", 100, 5),
    Task("CWL2, 5 values of c, targeted", 100, 5, targeted=True),
    Task(
        "CWL2, 5 values of c, targeted, every step made", 100, 5, targeted=True, first_success=False
    ),
    Task("DeepFool, 50 steps at most", 50),
)
CONST, RATE, OVERSHOOT = 0.1, 0.05, 0.02

Call = Callable[[], Tensor]


def ours(task: Task, model: fr.Classifier, x: Tensor, y: Tensor, goal: Tensor) -> Call:
    """Return our attack as a call that returns images."""
    wish = {"target": goal} if task.targeted else {"y": goal}
    attack: Any = fr.attacks.DeepFool(max_steps=task.steps, overshoot=OVERSHOOT)
    if task.searches:
        attack = fr.attacks.CWL2(
            initial_const=CONST,
            binary_search_steps=task.searches,
            max_steps=task.steps,
            learning_rate=RATE,
            abort_early=task.first_success,
        )
    return lambda: attack.run(model, x, **wish).adv


def torchattacks(
    module: ModuleType, task: Task, model: fr.Classifier, x: Tensor, y: Tensor, goal: Tensor
) -> Call | None:
    """It has one c, and always looks at whether the objective falls."""
    if task.searches > 1 or not task.first_success:
        return None
    if not task.searches:
        return lambda: module.DeepFool(model, steps=task.steps, overshoot=OVERSHOOT)(x, y)
    attack = module.CW(model, c=CONST, steps=task.steps, lr=RATE)
    if task.targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    return lambda: attack(x, goal)


def foolbox(
    module: ModuleType, task: Task, model: fr.Classifier, x: Tensor, y: Tensor, goal: Tensor
) -> Call:
    """Its raw call, which clips nothing to a ball."""
    wrapped = module.PyTorchModel(model, bounds=(0, 1), device=x.device)
    kind = (
        module.criteria.TargetedMisclassification
        if task.targeted
        else (module.criteria.Misclassification)
    )
    attack = module.attacks.L2DeepFoolAttack(steps=task.steps, overshoot=OVERSHOOT)
    if task.searches:
        attack = module.attacks.L2CarliniWagnerAttack(
            binary_search_steps=task.searches,
            steps=task.steps,
            stepsize=RATE,
            initial_const=CONST,
            abort_early=task.first_success,
        )
    return lambda: attack.run(wrapped, x, kind(goal))


def adv_lib(
    module: ModuleType, task: Task, model: fr.Classifier, x: Tensor, y: Tensor, goal: Tensor
) -> Call:
    """Its functions."""
    if not task.searches:
        return lambda: module.df(model, x, y, steps=task.steps, overshoot=OVERSHOOT)
    return lambda: module.carlini_wagner_l2(
        model,
        x,
        goal,
        targeted=task.targeted,
        learning_rate=RATE,
        initial_const=CONST,
        binary_search_steps=task.searches,
        max_iterations=task.steps,
        abort_early=task.first_success,
    )


CALLS = {"torchattacks": torchattacks, "foolbox": foolbox, "adv-lib": adv_lib}


def found() -> dict[str, ModuleType]:
    """Import the peers that are installed; say which are not, and why."""
    modules = {}
    for name, module in PEERS.items():
        try:
            modules[name] = importlib.import_module(module)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return modules


def compare(
    task: Task, modules: dict[str, ModuleType], model: fr.Classifier, x: Tensor, y: Tensor,
    rounds: int,
) -> str:  # fmt: skip
    """Let everybody do a task in turn; return a table."""
    goal = fr.attacks.random_targets(y, 10, 0) if task.targeted else y
    calls: dict[str, Call] = {OURS: ours(task, model, x, y, goal)}
    for name, module in modules.items():
        call = CALLS[name](module, task, model, x, y, goal)
        if call is not None:
            calls[name] = call
    images: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        images[name] = calls[name]().detach()

    timings = interleave({name: lambda name=name: keep(name) for name in calls}, 0, least=rounds)
    # foolbox returns a black image where it finds nothing, and a network calls that something.
    hits = {
        name: ((model.predict(adv) == goal) == task.targeted) & adv.flatten(1).any(1)
        for name, adv in images.items()
    }
    l2 = {name: (adv - x).flatten(1).norm(dim=1) for name, adv in images.items()}
    every = torch.stack(list(hits.values())).all(0)
    lines = [
        f"{task.name}: all succeed in {every.sum()} of {len(x)} images",
        "| who | s | spread | time over ours | success | as ours | mean L2 | where all succeed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, timing in timings.items():
        middle, low, high = ratio(timing, timings[OURS])
        hit = hits[name]
        lines.append(
            f"| {name} | {timing.median:.2f} | {timing.spread:.0%} "
            f"| {middle:.2f} ({low:.2f}-{high:.2f}) | {hit.sum()} | {(hit == hits[OURS]).sum()} "
            f"| {l2[name][hit].mean():.3f} | {l2[name][every].mean():.3f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=Path, help="run folder with the classifier")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    malloc.keep_freed_memory()
    modules = found()
    versions = {name: version(name) for name in ("torch", *modules)}
    digits = fr.data.load("digits")
    with trained(options.models, (NAME,)) as models:
        model = models[NAME].requires_grad_(False)  # no peer computes gradients of the weights
    right = model.predict(digits.x_test) == digits.y_test
    x, y = (part[right][: options.images] for part in (digits.x_test, digits.y_test))
    print(f"{NAME}, {len(x)} digits that it decides right, one thread; Python "
          f"{platform.python_version()}, {versions}")  # fmt: skip
    for task in TASKS:
        print(f"\n{compare(task, modules, model, x, y, options.rounds)}", flush=True)


if __name__ == "__main__":
    main()
