"""Spectra of all 3x3 convolutions of networks: ours against an FFT and SVDs or eigenvalues.

Run ``python -m benches.bench_spectra [--rounds 3] [--threads 2] [--checkpoint FILE]``. (a) is what
Sedghi, Gupta and Long 2018 (arXiv 1805.10408) do, for stride 1; where a layer of ResNet-18 has a
stride, (a) to (c) take the convolution of stride 1 on the coarser torus, as ours does.
"""

import argparse
import ctypes
import gc
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastrobust as fr
from fastrobust.spectral.fourier import Torus, torus

from .timer import Timing, ratio, turns

Layer = tuple[Tensor, tuple[int, int], tuple[int, int]]  # weight, input size, stride


def layers_of(net: nn.Module, shape: tuple[int, int, int]) -> list[Layer]:
    """Return the convolutions wider than 1x1 that an image of this shape meets."""
    found: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            weight, size = module.weight.detach(), tuple(inputs[0].shape[2:])
            found.append((weight, size, module.stride))

    hooks = [module.register_forward_hook(note) for module in net.modules()]
    with torch.no_grad():
        net.eval()(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return found


def grid(each: Torus) -> Tensor:
    """Return the (outputs, inputs, rows, columns) kernel on its torus."""
    rows, columns = each.size
    at = torch.tensor([y * columns + x for y, x in each.places])
    empty = each.weight.new_zeros(*each.shape, rows * columns)
    return empty.index_copy(2, at, each.weight[0]).unflatten(2, each.size)


def full_svd(kernel: Tensor) -> Tensor:
    """(a): a complex SVD at every frequency."""
    return torch.linalg.svdvals(torch.fft.fft2(kernel).permute(2, 3, 0, 1))


def half_svd(kernel: Tensor) -> Tensor:
    """(b): at half of the frequencies."""
    return torch.linalg.svdvals(torch.fft.rfft2(kernel).permute(2, 3, 0, 1))


def half_gram(kernel: Tensor) -> Tensor:
    """(c): eigenvalues of the smaller Gram matrix at half of the frequencies."""
    waves = torch.fft.rfft2(kernel).permute(2, 3, 0, 1)
    waves = waves if waves.shape[2] <= waves.shape[3] else waves.mT
    return torch.linalg.eigvalsh(waves @ waves.mH).clamp_min(0).sqrt()


FIRST = "(a) fft2 + svdvals"
TOP = "(d) ours, largest values"
WAYS = {FIRST: full_svd, "(b) rfft2 + svdvals": half_svd, "(c) rfft2 + Gram eigvalsh": half_gram}


def candidates(layers: list[Layer]) -> dict[str, Callable[[], Any]]:
    """Return the ways to the spectra of these layers; (a) to (c) know no way to the top alone."""
    kernels = [grid(torus(*layer)) for layer in layers]
    weights, sizes, strides = (list(column) for column in zip(*layers, strict=True))
    return {
        **{
            name: lambda how=how: [how(kernel).flatten() for kernel in kernels]
            for name, how in WAYS.items()
        },
        "(d) ours": lambda: fr.spectral.conv_spectra(weights, sizes, strides),
        TOP: lambda: fr.spectral.conv_norms(weights, sizes, strides),
    }


def observed(name: str, call: Callable[[], Any]) -> tuple[Any, Timing, float]:
    """Call once; return what it returns, the time as a cold one, and the GiB it took at most.

    Linux counts the peak of a process anew when its /proc/self/clear_refs is told so.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _status("VmRSS"), time.perf_counter()
    found = call()
    cold = Timing(name, time.perf_counter() - start, ())
    return found, cold, max(0.0, _status("VmHWM") - before)


def _status(line: str) -> float:
    found = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "must be Linux"
    return int(found[1]) / 2**20


def measure(name: str, layers: list[Layer], rounds: int) -> None:
    """Print how the ways compare on a network."""
    ways = candidates(layers)
    sizes = [torus(*layer).size for layer in layers]
    frequencies = sum(rows * columns for rows, columns in sizes)
    print(f"\n{name}: {len(layers)} convolutions, {frequencies} frequencies, {rounds} rounds")
    seen = {way: observed(way, call) for way, call in ways.items()}  # the first round
    rest = turns(ways, rounds - 1)
    taken = {
        way: replace(timing, seconds=(timing.cold, *rest[way].seconds))
        for way, (_, timing, _) in seen.items()
    }
    theirs, ours, norms = (seen[way][0] for way in (FIRST, "(d) ours", TOP))
    print(f"{'':28} {'all values':>24}   {'largest values alone':>24} {'GiB':>6}")
    for way in [*WAYS, "(d) ours"]:
        top = TOP if way == "(d) ours" else way
        columns = "   ".join(_column(taken[FIRST], taken[which]) for which in (way, top))
        print(f"{way:28} {columns} {seen[way][2]:6.2f}", flush=True)
    largest = [values.max() for values in theirs]
    gaps = [
        float((own - values.sort(descending=True).values).abs().max() / top)
        for own, values, top in zip(ours.values, theirs, largest, strict=True)
    ]
    tops = [float((own - top).abs() / top) for own, top in zip(norms, largest, strict=True)]
    methods = {method: ours.methods.count(method) for method in sorted(set(ours.methods))}
    print(
        f"ours less (a), of a layer's largest value: {max(gaps):.1e}, the largest values "
        f"{max(tops):.1e}; {seen[TOP][2]:.2f} GiB for them alone; {methods}, "
        f"{ours.fallbacks} with more care"
    )


def _column(first: Timing, timing: Timing) -> str:
    middle, low, high = ratio(first, timing)
    return f"{timing.median * 1e3:8.1f} ms {middle:5.1f}x ({low:.1f}-{high:.1f})"


GROWTH = (
    ("image", [(1, 12, n) for n in (8, 16, 32, 64)]),
    ("channels", [(1, c, 16) for c in (6, 12, 24, 48, 96)]),
    ("layers", [(layers, 12, 16) for layers in (1, 4, 16, 64)]),
)


def growth(rounds: int) -> None:
    """Print how the cost grows with the image, the channels and the number of layers."""
    print(f"\nGrowth: c x 4c channels, 3x3, random weights, {rounds} rounds")
    print(f"{'':10} {'layers':>6} {'c':>4} {'n':>4} {'(a), ms':>10} {'ours, ms':>10} {'times':>18}")
    for grows, cases in GROWTH:
        for count, channels, n in cases:
            one = [(torch.randn(channels, 4 * channels, 3, 3), (n, n), (1, 1))]
            ways = candidates([(w.clone(), *rest) for w, *rest in one * count])
            both = {way: ways[way] for way in (FIRST, "(d) ours")}
            turns(both, 1)
            theirs, ours = turns(both, rounds).values()
            middle, low, high = ratio(theirs, ours)
            print(
                f"{grows:10} {count:6} {channels:4} {n:4} {theirs.median * 1e3:10.2f} "
                f"{ours.median * 1e3:10.2f} {f'{middle:.1f} ({low:.1f}-{high:.1f})':>18}",
                flush=True,
            )


def main(arguments: list[str] | None = None) -> None:
    """Measure BC 100-12 at 32 x 32, ResNet-18 at 224 x 224, and how the cost grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of ResNet-18; five times elsewhere")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", help="a trained network, measured beside its random self")
    parser.add_argument("--only", choices=("densenet", "resnet", "growth"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    many = 5 * options.rounds
    if options.only in (None, "densenet"):
        net = fr.models.densenet(100, 12)
        measure("DenseNet-BC 100-12, random weights", layers_of(net, (3, 32, 32)), many)
        if options.checkpoint:
            trained = fr.checkpoint.load(options.checkpoint).net
            assert isinstance(trained, fr.models.DenseNet), "a DenseNet, to be built anew"
            wish: dict[str, Any] = trained.arguments
            fresh, shape = type(trained)(**wish), (wish["in_channels"], 32, 32)
            measure(f"{options.checkpoint}, trained", layers_of(trained, shape), many)
            measure("the same, random weights", layers_of(fresh, shape), many)
    if options.only in (None, "growth"):
        growth(many)
    if options.only in (None, "resnet"):
        import torchvision

        net = torchvision.models.resnet18()
        measure("ResNet-18, random weights", layers_of(net, (3, 224, 224)), options.rounds)


if __name__ == "__main__":
    main()
