"""Table 3's Madry row on a trained DenseNet-BC 40-12, against torchattacks, foolbox and adv-lib.

Run ``python -m benches.bench_madry CHECKPOINT --data-set NAME [--data-root DIR] [--images 100]
[--eps 0.05 0.1 0.2 0.3] [--rounds 3]``; ``peers.md`` says how to install the peers.

Madry's attack as the paper ran it (section 4.3): 40 steps of 0.01 along the sign of the gradient of
the cross-entropy, from the image on, last iterate, one batch; a row is the values of eps. adv-lib
returns the last iterate that succeeded, so that it may succeed where the others' last one does not.
"""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

import fastrobust as fr
from fastrobust import engine

from .bench_ops import machine
from .bench_peers import OURS, found
from .timer import interleave, ratio

GRID = 0.05, 0.1, 0.2, 0.3  # eps of the paper's MNIST columns
STEPS, STEP = 40, 0.01

Call = Callable[[float], Tensor]


def ours(model: fr.Classifier, x: Tensor, y: Tensor) -> Call:
    """Return our attack; the model prepares itself, or has been."""

    def attack(eps: float) -> Tensor:
        rule = fr.attacks.PGD(eps=eps, step_size=STEP, steps=STEPS, random_start=False, keep="last")
        return rule(model, x, y)

    return attack


def torchattacks(module: ModuleType, model: fr.Classifier, x: Tensor, y: Tensor) -> Call:
    """Its PGD."""
    return lambda eps: module.PGD(model, eps=eps, alpha=STEP, steps=STEPS, random_start=False)(x, y)


def foolbox(module: ModuleType, model: fr.Classifier, x: Tensor, y: Tensor) -> Call:
    """Its LinfPGD."""
    wrapped = module.PyTorchModel(model, bounds=(0, 1), device=x.device)
    attack = module.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)
    goal = module.criteria.Misclassification(y)
    return lambda eps: attack.run(wrapped, x, goal, epsilon=eps)


def adv_lib(module: ModuleType, model: fr.Classifier, x: Tensor, y: Tensor) -> Call:
    """Its pgd_linf."""
    return lambda eps: module.pgd_linf(
        model, x, y, eps, steps=STEPS, random_init=False, absolute_step_size=STEP
    )


CALLS = {"torchattacks": torchattacks, "foolbox": foolbox, "adv-lib": adv_lib}


def main(arguments: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data-set", default="mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--eps", type=float, nargs="+", default=GRID)
    parser.add_argument("--rounds", type=int, default=3)
    wishes = parser.parse_args(arguments)
    model = fr.checkpoint.load(wishes.checkpoint).requires_grad_(False)
    test = fr.data.load(wishes.data_set, wishes.data_root, splits=("test",))
    x, y = test.x_test[: wishes.images], test.y_test[: wishes.images]
    rows: dict[str, Call] = {OURS: ours(model, x, y)}
    if fr.build_info()["bf16"]:
        rows[f"{OURS}, bf16"] = ours(engine.prepare(model, "bf16"), x, y)
    modules = found()
    rows |= {name: CALLS[name](module, model, x, y) for name, module in modules.items()}
    broken: dict[str, Tensor] = {}

    def row(name: str) -> None:
        broken[name] = torch.stack([model.predict(rows[name](eps)) != y for eps in wishes.eps])

    timings = interleave({n: lambda n=n: row(n) for n in rows}, 0, least=wishes.rounds)
    facts = machine(torch.device("cpu"))
    print(f"{facts['cpu']}, {facts['threads']} threads, {facts['build']['cpu']}; "
          f"{ {name: version(name) for name in ('torch', *modules)} }; {len(x)} images, "
          f"clean accuracy {(model.predict(x) == y).float().mean():.3f}")  # fmt: skip
    grid = ", ".join(map(str, wishes.eps))
    print(f"| who | s | spread | x ours | accuracy at eps = {grid} | as ours |")
    print("|---|---:|---:|---:|---|---:|")
    for name, timing in timings.items():
        middle, low, high = ratio(timing, timings[OURS])
        accuracy = ", ".join(f"{1 - share:.2f}" for share in broken[name].float().mean(1))
        same = (broken[name] == broken[OURS]).float().mean()
        print(f"| {name} | {timing.median:.1f} | {timing.spread:.0%} | {middle:.2f} "
              f"({low:.2f}-{high:.2f}) | {accuracy} | {same:.4f} |")  # fmt: skip


if __name__ == "__main__":
    main()
