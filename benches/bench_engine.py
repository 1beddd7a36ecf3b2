"""The fused engine against PyTorch: gradients of DenseNets by the input, images per second.

Run ``python -m benches.bench_engine [--nets 22 40 100] [--sizes 32 28] [--batches 8 64 500]
[--seconds 20] [--without compile]``; all of it takes an hour, mostly in compilers and slow batches.

Random weights with norms that have seen data. A gradient is one forward and one backward to the
input from a random cotangent on 128 outputs. Eager PyTorch takes batches above 64 in pieces of 64,
as its memory asks for on this kind of machine.

Columns: images a second, spread of the times, times as fast as eager with its weights frozen
(median and quartiles, round by round), nominal GFLOP/s (two for each multiplication of the network
as it is written, forward, and as many backward), their share of what the cores can do, distance
from eager's gradient by its norm, share of equal signs, seconds of the first call.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.engine import folding
from fastrobust.engine.prepared import Prepared
from fastrobust.ops.densenet_op import densenet_ref

from .bench_ops import machine
from .timer import interleave, ratio

PIECE = 64  # images of one eager call
HEADER = ["N", "way", "images/s", "spread", "eager", "GFLOP/s", "peak", "gap", "signs", "first"]
WAYS = "eager", "eager, weight gradients", "compile", "fp32", "bf16"

Call = Callable[[Tensor, Tensor], Tensor]


class Folded(nn.Module):
    """The network with its norms folded, for torch.compile."""

    def __init__(self, net: fr.models.DenseNet) -> None:
        super().__init__()
        self.shape = folding.shape_of(net)
        self.folded = [part.float() for part in folding.fold(net)]

    def forward(self, x: Tensor) -> Tensor:
        """Map images to outputs."""
        return densenet_ref(self.folded, self.shape, x)


def network(depth: int, channels: int, growth: int = 12) -> fr.models.DenseNet:
    """Return a DenseNet-BC whose norms have seen two batches of noise."""
    torch.manual_seed(depth)
    net = fr.models.densenet(depth, growth, in_channels=channels, num_outputs=128)
    with torch.no_grad():
        for _ in range(2):
            net(torch.rand(32, channels, 32, 32))
    return net.eval()


def by_autograd(net: Callable[[Tensor], Tensor]) -> Call:
    """Return a gradient through a module, in pieces."""

    def gradient(x: Tensor, dz: Tensor) -> Tensor:
        parts = []
        for images, cotangents in zip(x.split(PIECE), dz.split(PIECE), strict=True):
            leaf = images.clone().requires_grad_()
            parts += torch.autograd.grad(net(leaf), leaf, cotangents)
        return torch.cat(parts)

    return gradient


def with_weights(net: nn.Module) -> Call:
    """Return a gradient that computes those of the weights, too: what ``loss.backward()`` does."""
    weights = list(net.parameters())

    def gradient(x: Tensor, dz: Tensor) -> Tensor:
        parts = []
        for images, cotangents in zip(x.split(PIECE), dz.split(PIECE), strict=True):
            leaf = images.clone().requires_grad_()
            parts.append(torch.autograd.grad(net(leaf), [leaf, *weights], cotangents)[0])
        return torch.cat(parts)

    return gradient


def by_engine(model: Prepared) -> Call:
    """Return the engine's, in calls that fit its memory."""

    def gradient(x: Tensor, dz: Tensor) -> Tensor:
        rows = model.search.rows(x)
        parts = []
        with model.search.opened():
            for images, cotangents in zip(x.split(rows), dz.split(rows), strict=True):
                leaf = images.clone().requires_grad_()
                parts += torch.autograd.grad(model.search(leaf), leaf, cotangents)
        return torch.cat(parts)

    return gradient


def ways(depth: int, channels: int, left_out: list[str]) -> dict[str, Call]:
    """Return every way to the gradient, by name."""
    net = network(depth, channels)
    frozen = network(depth, channels).requires_grad_(False)
    calls = {
        "eager": by_autograd(frozen),
        "eager, weight gradients": with_weights(net),
        "compile": by_autograd(torch.compile(Folded(frozen))),
        "fp32": by_engine(engine.prepare(frozen)),
    }
    if fr.build_info()["bf16"]:
        calls["bf16"] = by_engine(engine.prepare(frozen, "bf16"))
    return {name: call for name, call in calls.items() if name not in left_out}


@cache
def operations(depth: int, channels: int, size: int, growth: int = 12) -> int:
    """Nominal operations of an image's forward and backward."""
    net, total = network(depth, channels, growth), []

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        total.append(2 * out[0].numel() * module.weight[0].numel())

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.rand(1, channels, size, size))
    return 2 * sum(total)


def peak() -> list[float]:
    """Billions of operations a second that all threads' cores do.

    In float32, then in bfloat16 by vectors and by a matrix unit, where there are such.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        source = Path(__file__).with_name("peak.cpp")
        compiler = ["g++", "-O3", "-march=native", "-std=c++20"]
        subprocess.run([*compiler, source, "-o", program], check=True)
        with ThreadPoolExecutor(threads) as pool:
            runs = [pool.submit(subprocess.check_output, [program]) for _ in range(threads)]
            found = [[float(word) for word in run.result().split()] for run in runs]
    return [sum(column) for column in zip(*found, strict=True)]


def measure(
    calls: dict[str, Call], x: Tensor, flops: int, best: list[float], seconds: float
) -> list[str]:
    """Time all ways in turn on one batch; return lines of the table."""
    dz = torch.randn(len(x), 128)
    gradients = {}
    first = {}
    for name, call in calls.items():
        start = time.perf_counter()
        gradients[name] = call(x, dz)
        first[name] = time.perf_counter() - start
    timings = interleave({n: lambda c=c: c(x, dz) for n, c in calls.items()}, seconds, least=5)
    reference = gradients["eager"]
    lines = []
    for name, timing in timings.items():
        middle, low, high = ratio(timings["eager"], timing)
        rate = len(x) / timing.median
        floor = best[-1] if name == "bf16" else best[0]
        gap = (gradients[name] - reference).norm() / reference.norm()
        same = (gradients[name].sign() == reference.sign()).float().mean()
        lines.append(
            f"| {len(x)} | {name} | {rate:.0f} | {timing.spread:.0%} | {middle:.2f} "
            f"({low:.2f}-{high:.2f}) | {rate * flops / 1e9:.0f} | {rate * flops / 1e9 / floor:.0%} "
            f"| {gap:.1e} | {same:.5f} | {first[name]:.1f} |"
        )
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each network and size of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", type=int, nargs="+", default=[22, 40, 100])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 28])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64, 500])
    parser.add_argument("--seconds", type=float, default=20, help="for each batch")
    parser.add_argument("--without", nargs="+", choices=WAYS[1:], default=[])
    wishes = parser.parse_args(arguments)
    facts, best = machine(torch.device("cpu")), peak()
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, "
          f"{facts['build']['cpu']}; peak {', '.join(f'{b:.0f}' for b in best)} GFLOP/s "
          "(float32, bfloat16, matrix unit)")  # fmt: skip
    for depth in wishes.nets:
        for size in wishes.sizes:
            channels = 3 if size == 32 else 1
            flops = operations(depth, channels, size)
            calls = ways(depth, channels, wishes.without)
            print(f"\nBC {depth}-12, {size}x{size}x{channels}, {flops / 1e6:.0f} MFLOP an image")
            print(f"| {' | '.join(HEADER)} |\n|---:|---|{'---:|' * (len(HEADER) - 2)}")
            for batch in wishes.batches:
                x = torch.rand(batch, channels, size, size)
                print("\n".join(measure(calls, x, flops, best, wishes.seconds)), flush=True)


if __name__ == "__main__":
    main()
