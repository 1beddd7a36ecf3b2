"""Networks as chains: the parts of each composite module, and where their signals are joined."""

from typing import Any

from torch import nn

from ..models.classifier import Classifier
from ..models.networks import DenseLayer, DenseNet, NormReLUConv
from .chain import Chain, ChainBuilder, Dense, ImageSize, Residual
from .layer_readers import LAYER_READERS, Reader, average_all


def read(model: nn.Module, size: ImageSize) -> Chain:
    """Return the chain of a classifier or of a plain module, in order of execution.

    Args:
        model: A tree of known layers; it is read as in eval mode.
        size: Height and width of its images.

    Raises:
        TypeError: A layer is unknown; it is named.
        ValueError: A layer's settings are not covered, or the images are too small for it.
    """
    builder = ChainBuilder(size)
    if isinstance(model, Classifier):
        if model.std is not None:
            builder.normalisation(model.std)
        read_module(builder, "net", model.net)
        builder.head(model.head)
    else:
        read_module(builder, "", model)
    return builder.chain


def read_module(builder: ChainBuilder, name: str, module: nn.Module) -> None:
    """Add the links of a module."""
    if any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module):
        raise TypeError(f"{name or 'model'} must be a plain layer, got hooks or its own forward")
    kind = type(module)
    reader = _READERS.get(kind) or _TORCHVISION.get(f"{kind.__module__}.{kind.__qualname__}")
    if reader is None:
        known = ", ".join(sorted([known.__name__ for known in _READERS] + [*_TORCHVISION]))
        raise TypeError(
            f"{name or 'model'} must be one of {known} for its Lipschitz constant to be "
            f"known, got {kind.__name__}"
        )
    reader(builder, name, module)


def _parts(builder: ChainBuilder, name: str, module: Any, *parts: str) -> None:
    """Add some parts of a module in order."""
    for part in parts:
        read_module(builder, _below(name, part), getattr(module, part))


def _sequence(builder: ChainBuilder, name: str, module: Any) -> None:
    _parts(builder, name, module, *module._modules)  # named_children would skip a second use


def _norm_relu_conv(builder: ChainBuilder, name: str, module: Any) -> None:
    _parts(builder, name, module, "norm")
    builder.add_constant(_below(name, "relu"), "relu", 1.0)
    _parts(builder, name, module, "conv")


def _dense_layer(builder: ChainBuilder, name: str, layer: Any) -> None:
    builder.stop_scale()  # the input, which is passed on unchanged, has the scale too
    before = builder.writers
    with builder.branch() as branch:
        if layer.bottleneck is not None:
            _parts(builder, name, layer, "bottleneck")
        _parts(builder, name, layer, "grow")
    builder.chain.append(Dense(branch))
    builder.writers = [*before, *builder.writers]


def _dense_net(builder: ChainBuilder, name: str, net: Any) -> None:
    _parts(builder, name, net, "stem")
    for index, block in enumerate(net.blocks):
        if index:
            read_module(
                builder, _below(name, f"transitions.{index - 1}"), net.transitions[index - 1]
            )
        read_module(builder, _below(name, f"blocks.{index}"), block)
    _parts(builder, name, net, "norm")
    builder.add_constant(_below(name, "relu"), "relu", 1.0)
    average_all(builder, _below(name, "mean"))
    _parts(builder, name, net, "linear")


def _res_net(builder: ChainBuilder, name: str, net: Any) -> None:
    _parts(builder, name, net, "conv1", "bn1", "relu", "maxpool")
    _parts(builder, name, net, "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")


def _basic_block(builder: ChainBuilder, name: str, block: Any) -> None:
    _residual(builder, name, block, "conv1", "bn1", "relu", "conv2", "bn2")


def _bottleneck(builder: ChainBuilder, name: str, block: Any) -> None:
    first = "conv1", "bn1", "relu", "conv2", "bn2", "relu"
    _residual(builder, name, block, *first, "conv3", "bn3")


def _residual(builder: ChainBuilder, name: str, block: Any, *parts: str) -> None:
    builder.fold_scale_back()  # both branches have the scale
    size = builder.size
    with builder.branch() as branch:
        _parts(builder, name, block, *parts)
        builder.fold_scale_back()
    builder.size, builder.writers = size, []
    with builder.branch() as shortcut:
        if block.downsample is not None:
            _parts(builder, name, block, "downsample")
            builder.fold_scale_back()
    builder.chain.append(Residual(branch, shortcut))
    builder.writers = []  # a sum is written by several links
    _parts(builder, name, block, "relu")


def _below(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


_HOOKS = "_forward_hooks", "_forward_pre_hooks"
_READERS: dict[type[nn.Module], Reader] = {
    **LAYER_READERS,
    nn.Sequential: _sequence,
    NormReLUConv: _norm_relu_conv,
    DenseLayer: _dense_layer,
    DenseNet: _dense_net,
}
# By name, so that nothing imports torchvision.
_TORCHVISION: dict[str, Reader] = {
    "torchvision.models.resnet.ResNet": _res_net,
    "torchvision.models.resnet.BasicBlock": _basic_block,
    "torchvision.models.resnet.Bottleneck": _bottleneck,
}
