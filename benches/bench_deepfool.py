"""DeepFool on a batch of digits against the same DeepFool on one image at a time.

One image at a time it runs twice: through autograd, as one would without this library, and by the
fused engine, as the batch does.

Run ``python -m benches.bench_deepfool [--images 200] [--epochs 35]``: it trains a small network
first, and calls each way five times by one thread, which takes minutes.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

import fastrobust as fr
from fastrobust import engine
from fastrobust.attacks import AttackResult, DeepFool
from fastrobust.train.recipes import default_config
from fastrobust.train.training import train
from fastrobust.utils import malloc

from .timer import interleave, ratio


def main(arguments: list[str] | None = None) -> None:
    """Print both times and their ratio, and what both ways find."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=35)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a small layer does not share
    malloc.keep_freed_memory()
    digits, name = fr.data.load("digits"), "O:SOFTMAX:CE"
    config = default_config("digits", name, epochs=options.epochs)
    with tempfile.TemporaryDirectory() as folder:
        model = train(digits, name, config, Path(folder) / "weights.safetensors")
    x, y = digits.x_test[: options.images], digits.y_test[: options.images]
    print(f"DeepFool on {len(x)} digits, {name}, float32, one thread")
    print(compare(model, x, y))


def compare(model: fr.Classifier, x: Tensor, y: Tensor) -> str:
    """Time both ways in turn; say also where their results differ."""
    found: dict[str, list[AttackResult]] = {}

    plain = engine.prepare(model, backend="autograd")

    def attack(name: str, network: fr.Classifier, size: int) -> None:
        rows = zip(x.split(size), y.split(size), strict=True)
        found[name] = [DeepFool().run(network, *some) for some in rows]

    timings = interleave(
        {
            "batch": lambda: attack("batch", model, len(x)),
            "alone": lambda: attack("alone", plain, 1),
            "engine": lambda: attack("engine", model, 1),
        },
        least=3,
    )
    batch, alone = timings["batch"], timings["alone"]
    middle, low, high = ratio(alone, batch)
    same, least, most = ratio(timings["engine"], batch)
    success, l2 = (
        {name: torch.cat([getattr(r, field) for r in results]) for name, results in found.items()}
        for field in ("success", "l2")
    )
    return (
        f"{batch.median:.2f} s (spread {batch.spread:.0%}) in one batch, "
        f"{alone.median:.2f} s ({alone.spread:.0%}) one by one: "
        f"{middle:.1f}x ({low:.1f}-{high:.1f}); one by one by the engine, too: "
        f"{same:.1f}x ({least:.1f}-{most:.1f})\n"
        f"success in {success['batch'].sum()} and {success['alone'].sum()}, "
        f"the same in {(success['batch'] == success['alone']).sum()} of {len(x)} images; "
        f"mean L2 {l2['batch'].mean():.4f} and {l2['alone'].mean():.4f}"
    )


if __name__ == "__main__":
    main()
