"""``fastrobust evaluate`` by its standard budget, against AutoAttack's, on the same weights.

Run ``python -m benches.bench_evaluate CHECKPOINT... --eps 0.1 [--norm linf] [--data-set digits]
[--data-root DIR] [--images 100] [--rounds 2]`` with pyautoattack (the authors' code as a package,
https://github.com/fra31/auto-attack) on the path; ``peers.md`` says how.

Both get the first images of the test set in one batch, through the same network with its weights
frozen: ours by the engine, AutoAttack through PyTorch. They take turns. Evaluations are forwards
and backwards of one image. Images that only one of them breaks are counted both ways.
"""

import argparse
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

import fastrobust as fr

from .bench_ops import machine
from .timer import interleave, ratio

OURS, THEIRS = "fastrobust evaluate", "AutoAttack"
NORMS = {"linf": "Linf", "l2": "L2"}


class Counted(nn.Module):
    """A model that counts forwards and backwards of one image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.evaluations = model, 0

    def forward(self, x: Tensor) -> Tensor:
        """Scores; a hook counts the way back."""
        scores: Tensor = self.model(x)
        self.evaluations += len(x)
        if scores.requires_grad:
            scores.register_hook(self._back)
        return scores

    def _back(self, grad: Tensor) -> None:
        self.evaluations += len(grad)


def compare(path: Path, x: Tensor, y: Tensor, eps: float, norm: str, rounds: int) -> None:
    """Print both lines of one checkpoint."""
    from pyautoattack import AutoAttack

    model = fr.checkpoint.load(path).eval().requires_grad_(False)
    stands: dict[str, Tensor] = {}
    cost: dict[str, int] = {}

    def ours() -> None:
        found = fr.evaluate(model, x, y, eps, norm, check=False, progress=False)
        stands[OURS], cost[OURS] = ~found.broken, int(found.queries.sum())

    def theirs() -> None:
        counted = Counted(model)
        attack = AutoAttack(counted, norm=NORMS[norm], eps=eps, seed=0, version="standard")
        adv = attack.run_standard_evaluation(x, y, batch_size=len(x))
        adv = adv[0] if isinstance(adv, tuple) else adv
        stands[THEIRS], cost[THEIRS] = model.predict(adv) == y, counted.evaluations

    timings = interleave({OURS: ours, THEIRS: theirs}, 0, least=rounds)
    clean = (model.predict(x) == y).float().mean()
    print(f"\n{path.stem}, {norm} {eps:g}, {len(x)} images, clean {clean:.3f}\n")
    print("| who | s | spread | times ours | robust accuracy | breaks alone | evaluations |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, timing in timings.items():
        middle, low, high = ratio(timing, timings[OURS])
        other = THEIRS if name == OURS else OURS
        alone = int((stands[other] & ~stands[name]).sum())
        print(f"| {name} | {timing.median:.1f} | {timing.spread:.0%} | {middle:.2f} "
              f"({low:.2f}-{high:.2f}) | {stands[name].float().mean():.3f} | {alone} | "
              f"{cost[name]:,} |", flush=True)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--eps", type=float, required=True)
    parser.add_argument("--norm", default="linf", choices=NORMS)
    parser.add_argument("--data-set", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    wishes = parser.parse_args(arguments)
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    test = fr.data.load(wishes.data_set, wishes.data_root, splits=("test",))
    x, y = test.x_test[: wishes.images], test.y_test[: wishes.images]
    facts = machine(torch.device("cpu"))
    print(f"{facts['cpu']}, {facts['threads']} threads, {facts['build']['cpu']}")
    for path in wishes.checkpoints:
        compare(path, x, y, wishes.eps, wishes.norm, wishes.rounds)


if __name__ == "__main__":
    main()
