"""Which networks the fused engine knows, and their weights with the batch norms folded in."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..models.networks import DenseLayer, DenseNet, NormReLUConv
from ..ops.densenet_op import DenseNetShape, has_gpu_kernels
from ..ops.extension import kernels
from .watch import HOOKS


def unsuited(net: nn.Module, precision: str = "fp32") -> str | None:
    """Say why the fused engine does not suit a network and this machine; None where it does."""
    if type(net) is not DenseNet:
        return f"a {type(net).__name__}, not a DenseNet of fastrobust.models"
    for name, module in net.named_modules():
        where = name or "the network"
        if type(module) not in _KNOWN:
            return f"a {type(module).__name__} in it at {where}"
        if any(getattr(module, hooks) for hooks in HOOKS):
            return f"hooks at {where}"
        if "forward" in vars(module):
            return f"a forward of its own at {where}"
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            return f"a convolution with a bias at {where}"
        if isinstance(module, nn.BatchNorm2d) and (
            module.running_mean is None or module.weight is None
        ):
            return f"a norm without statistics or weights of its own at {where}"
    arguments: dict[str, Any] = net.arguments
    built, present = _as_built(**{**arguments, "layers": tuple(arguments["layers"])}), _anatomy(net)
    for name in {**built, **present}:
        if present.get(name) != built.get(name):
            return f"other modules than it was built of at {name}"
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            return f"{name} in {str(tensor.dtype).removeprefix('torch.')}, not float32"
    device = net.stem.weight.device
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not has_gpu_kernels):
        return f"weights on {device}, where it has no kernels"
    if device.type == "cpu" and precision == "bf16" and not kernels.facts()["bf16"]:
        return "a CPU without AVX512-BF16"
    return None


_KNOWN = {
    DenseNet, DenseLayer, NormReLUConv, nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.AvgPool2d,
    nn.ModuleList, nn.Sequential,
}  # fmt: skip


def _anatomy(net: nn.Module) -> dict[str, str]:
    """Settings of every module by name; those of norms apart, which folding reads."""
    return {
        name: str(m.num_features) if isinstance(m, nn.BatchNorm2d) else m.extra_repr()
        for name, m in net.named_modules()
    }


@lru_cache(maxsize=16)
def _as_built(**arguments: Any) -> dict[str, str]:
    with torch.device("meta"):
        return _anatomy(DenseNet(**arguments))


def shape_of(net: DenseNet) -> DenseNetShape:
    """Return what a DenseNet is built of."""
    arguments: dict[str, Any] = net.arguments
    transitions: Any = net.transitions
    channels = [arguments["init_channels"], *(t[0].conv.out_channels for t in transitions)]
    return DenseNetShape(
        arguments["layers"], channels, arguments["growth"], arguments["bottleneck"],
        arguments["in_channels"], arguments["num_outputs"],
    )  # fmt: skip


def fold(net: DenseNet) -> list[Tensor]:
    """Return the folded weights, float64, in the order of :mod:`fastrobust.ops.densenet_op`."""
    folded = [net.stem.weight.double()]
    blocks: Any = net.blocks
    transitions: Any = net.transitions
    for index, block in enumerate(blocks):
        for layer in block:
            squeeze, grow = layer.bottleneck, layer.grow
            scale, shift = _affine(grow.norm)
            if squeeze is None:
                folded += [scale, shift]
            else:
                weight = squeeze.conv.weight.double() * scale[:, None, None, None]
                folded += [*_affine(squeeze.norm), weight, shift]
            folded.append(grow.conv.weight.double())
        if index < len(transitions):
            transition = transitions[index][0]
            folded += [*_affine(transition.norm), transition.conv.weight.double()]
    return [*folded, *_affine(net.norm), net.linear.weight.double(), net.linear.bias.double()]


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,), float64, of a batch norm in eval mode."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale
