"""Spectra of all 3x3 convolutions of two networks: ours against an FFT and SVDs or eigenvalues.

Run ``python -m benches.bench_spectra [--seconds 20] [--threads 2] [--checkpoint FILE]``. (a) is
what Sedghi, Gupta and Long 2018 (arXiv 1805.10408) do, for stride 1; where a layer of ResNet-18 has
a stride, (a) to (c) take the convolution of stride 1 on the coarser torus, as ours does.
"""

import argparse
import resource
from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastrobust as fr
from fastrobust.torus import Torus, torus

from .timer import interleave, ratio

Layer = tuple[Tensor, tuple[int, int], tuple[int, int]]  # weight, input size, stride


def layers_of(net: nn.Module, image: int) -> list[Layer]:
    """Return the convolutions wider than 1x1 that an image of 3 channels meets."""
    found: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            weight, size = module.weight.detach(), tuple(inputs[0].shape[2:])
            found.append((weight, size, module.stride))

    hooks = [module.register_forward_hook(note) for module in net.modules()]
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, image, image))
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


def peak() -> float:
    """Return the largest memory of the process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str, layers: list[Layer], seconds: float) -> None:
    """Print how the four compare on a network."""
    kernels = [grid(torus(*layer)) for layer in layers]
    weights, sizes, strides = (list(column) for column in zip(*layers, strict=True))

    def every(how: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [how(kernel) for kernel in kernels]

    candidates: dict[str, Callable[[], object]] = {
        "(a) fft2 + svdvals": lambda: every(full_svd),
        "(b) rfft2 + svdvals": lambda: every(half_svd),
        "(c) rfft2 + Gram eigvalsh": lambda: every(half_gram),
        "(d) ours": lambda: fr.spectral.conv_singular_values(weights, sizes, strides),
        "(d) ours, top value": lambda: fr.spectral.conv_norms(weights, sizes, strides),
    }
    frequencies = sum(kernel[0, 0].numel() for kernel in kernels)
    print(f"\n{name}: {len(layers)} convolutions, {frequencies} frequencies")
    before = peak()
    found = fr.spectral.conv_spectra(weights, sizes, strides)
    print(f"ours takes at most {peak() - before:.2f} GiB beyond what the process had taken before")
    taken = interleave(candidates, seconds, least=2)
    errors = []
    for ours, kernel in zip(found.values, kernels, strict=True):
        half = half_svd(kernel.double())
        mirrored = half[:, 1 : (kernel.shape[3] + 1) // 2]
        theirs = torch.cat([half.flatten(), mirrored.flatten()]).sort(descending=True).values
        errors.append(float((ours - theirs).abs().max() / theirs[0]))
    first = taken["(a) fft2 + svdvals"]
    for candidate, timing in taken.items():
        middle, low, high = ratio(first, timing)
        print(
            f"{candidate:28} {timing.median * 1e3:9.1f} ms  {middle:6.2f}x ({low:.2f}-{high:.2f})"
        )
    methods = {method: found.methods.count(method) for method in set(found.methods)}
    print(f"error of ours, of the largest of its layer: {max(errors):.1e}; {methods}")


def main(arguments: list[str] | None = None) -> None:
    """Measure BC 100-12 at 32 x 32 and ResNet-18 at 224 x 224."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", help="a trained network for 32 x 32 images, also measured")
    parser.add_argument("--only", choices=("densenet", "resnet"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.only != "resnet":
        net = fr.models.densenet(100, 12)
        measure("DenseNet-BC 100-12, random weights", layers_of(net, 32), options.seconds)
    if options.checkpoint:
        trained = fr.checkpoint.load(options.checkpoint)
        measure(options.checkpoint, layers_of(trained, 32), options.seconds)
    if options.only != "densenet":
        import torchvision

        measure("ResNet-18", layers_of(torchvision.models.resnet18(), 224), options.seconds)


if __name__ == "__main__":
    main()
