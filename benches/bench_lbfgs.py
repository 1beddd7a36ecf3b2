"""L-BFGS batched against SciPy image by image, on a small network trained on digits.

Run ``python -m benches.bench_lbfgs [--images 48] [--rounds 3]``; one thread, some minutes.

Both minimise c loss + squared distance inside the box, one c a row, from the image on, with
SciPy's stopping rules and float32 gradients from the same network: SciPy gets them once through
autograd, as one would write it, and once from the fused engine, as the batch does. Objectives and
evaluations are means over the images, SciPy's (through autograd) first.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor

import fastrobust as fr
from fastrobust import data, engine
from fastrobust.attacks import LBFGS, random_targets
from fastrobust.attacks.targets import goal
from fastrobust.engine import gradients, scheduler
from fastrobust.train import recipes, training

from .timer import interleave, ratio

CASES = (("O:SOFTMAX:CE", 1.0), ("R:TANH:MSE", 10.0))


@dataclass
class Problem:
    """Images on their way to targets; both ways to minimise leave where they end."""

    network: gradients.Oracle
    x: Tensor
    target: Tensor
    const: float
    ends: Tensor | None = None
    evaluations: float = 0.0

    def batched(self) -> None:
        """All images at once."""
        attack = LBFGS(initial_const=self.const, binary_search_steps=1)
        state = attack.start(self.network, self.x, goal(self.network, self.x, None, self.target))
        scheduler.run_batch(attack, self.network, state)
        self.evaluations = float(state.queries.double().mean()) / 2
        self.ends = state.point

    def one_by_one(self) -> None:
        """Each image by a call of SciPy."""
        ends, calls = [], 0
        for x, target in zip(self.x.split(1), self.target.split(1), strict=True):
            image = x.flatten().double().numpy()

            def objective(v: np.ndarray, x: Tensor = x, target: Tensor = target) -> tuple:
                there = torch.from_numpy(v).to(x.dtype).view_as(x)
                value, grad = self.ask(there, x, target)
                return float(value), grad.flatten().double().numpy()

            end, _, told = fmin_l_bfgs_b(
                objective, image, bounds=[(0, 1)] * len(image), maxiter=1000
            )
            ends.append(torch.from_numpy(end).to(x.dtype).view_as(x))
            calls += told["funcalls"]
        self.evaluations = calls / len(self.x)
        self.ends = torch.cat(ends)

    def ask(self, there: Tensor, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective (N,) and its gradient."""
        towards = torch.ones(len(there))
        answer = self.network.gradient(there, target, "train", towards)
        offset = there - x
        value = self.const * answer.loss.double() + offset.flatten(1).square().sum(1)
        return value, self.const * answer.grad + 2 * offset


def classifier(name: str, digits: data.DataSet) -> fr.Classifier:
    """Train one for a few epochs."""
    config = recipes.default_config("digits", name, epochs=8)
    with TemporaryDirectory() as folder:
        return training.train(digits, name, config, Path(folder) / "net.safetensors")


def main(arguments: list[str] | None = None) -> None:
    """Print how many times longer SciPy takes, and where both end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    digits = data.load("digits")
    x, labels = digits.x_test[: options.images], digits.y_test[: options.images]
    target = random_targets(labels, digits.num_classes)
    print("| model | c | SciPy s | batched s | ratio | SciPy, engine | objective | evaluations |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, const in CASES:
        model = classifier(name, digits)
        plain = engine.prepare(model, backend="autograd")
        with engine.oracle(plain, x.device) as slow, engine.oracle(model, x.device) as network:
            one, same, all_ = (Problem(n, x, target, const) for n in (slow, network, network))
            calls = {"one": one.one_by_one, "same": same.one_by_one, "all": all_.batched}
            timings = interleave(calls, seconds=0, least=options.rounds)
            mean, other = (float(p.ask(p.ends, x, target)[0].mean()) for p in (one, all_))
        middle, low, high = ratio(timings["one"], timings["all"])
        print(
            f"| {name} | {const:g} | {timings['one'].median:.2f} | {timings['all'].median:.3f} "
            f"| {middle:.1f} ({low:.1f}-{high:.1f}) "
            f"| {ratio(timings['same'], timings['all'])[0]:.1f} | {mean:.5g} and {other:.5g} "
            f"| {one.evaluations:.0f} and {all_.evaluations:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
