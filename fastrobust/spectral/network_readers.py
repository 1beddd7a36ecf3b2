"""How whole networks read as chains: which parts a module has, and where their signals meet."""

from typing import Any

from torch import nn

from ..models.classifier import Classifier
from ..models.networks import DenseLayer, DenseNet, NormReLUConv
from .chain import Chain, Dense, Residual, Size, Walk
from .layer_readers import LEAVES, Reader, average_all


def read(model: nn.Module, size: Size) -> Chain:
    """Return the chain of a classifier or of a plain module, in order of execution.

    Args:
        model: A tree of known layers; it is read as in eval mode.
        size: Height and width of its images.

    Raises:
        TypeError: A layer is unknown; it is named.
        ValueError: A layer's settings are not covered, or the images are too small for it.
    """
    walk = Walk(size)
    if isinstance(model, Classifier):
        if model.std is not None:
            walk.normalisation(model.std)
        visit(walk, "net", model.net)
        walk.head(model.head)
    else:
        visit(walk, "", model)
    return walk.chain


def visit(walk: Walk, name: str, module: nn.Module) -> None:
    """Add a module's links."""
    if any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module):
        raise TypeError(f"{name or 'model'} must be a plain layer, got hooks or its own forward")
    kind = type(module)
    read_it = _READERS.get(kind) or _TORCHVISION.get(f"{kind.__module__}.{kind.__qualname__}")
    if read_it is None:
        known = ", ".join(sorted([known.__name__ for known in _READERS] + [*_TORCHVISION]))
        raise TypeError(
            f"{name or 'model'} must be one of {known} for its Lipschitz constant to be "
            f"known, got {kind.__name__}"
        )
    read_it(walk, name, module)


def _parts(walk: Walk, name: str, module: Any, *parts: str) -> None:
    """Add some of a module's parts, one after the other."""
    for part in parts:
        visit(walk, _below(name, part), getattr(module, part))


def _sequence(walk: Walk, name: str, module: Any) -> None:
    _parts(walk, name, module, *module._modules)  # named_children would skip a second use


def _norm_relu_conv(walk: Walk, name: str, module: Any) -> None:
    _parts(walk, name, module, "norm")
    walk.closed(_below(name, "relu"), "relu", 1.0)
    _parts(walk, name, module, "conv")


def _dense_layer(walk: Walk, name: str, layer: Any) -> None:
    walk.forget_scale()  # what is passed on unchanged needs it too
    before = walk.writers
    with walk.branch() as own:
        if layer.bottleneck is not None:
            _parts(walk, name, layer, "bottleneck")
        _parts(walk, name, layer, "grow")
    walk.chain.append(Dense(own))
    walk.writers = [*before, *walk.writers]


def _dense_net(walk: Walk, name: str, net: Any) -> None:
    _parts(walk, name, net, "stem")
    for index, block in enumerate(net.blocks):
        if index:
            visit(walk, _below(name, f"transitions.{index - 1}"), net.transitions[index - 1])
        visit(walk, _below(name, f"blocks.{index}"), block)
    _parts(walk, name, net, "norm")
    walk.closed(_below(name, "relu"), "relu", 1.0)
    average_all(walk, _below(name, "mean"))
    _parts(walk, name, net, "linear")


def _res_net(walk: Walk, name: str, net: Any) -> None:
    _parts(walk, name, net, "conv1", "bn1", "relu", "maxpool")
    _parts(walk, name, net, "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")


def _basic_block(walk: Walk, name: str, block: Any) -> None:
    _residual(walk, name, block, "conv1", "bn1", "relu", "conv2", "bn2")


def _bottleneck(walk: Walk, name: str, block: Any) -> None:
    first = "conv1", "bn1", "relu", "conv2", "bn2", "relu"
    _residual(walk, name, block, *first, "conv3", "bn3")


def _residual(walk: Walk, name: str, block: Any, *parts: str) -> None:
    walk.settle()  # both branches need it
    size = walk.size
    with walk.branch() as own:
        _parts(walk, name, block, *parts)
        walk.settle()
    walk.size, walk.writers = size, []
    with walk.branch() as shortcut:
        if block.downsample is not None:
            _parts(walk, name, block, "downsample")
            walk.settle()
    walk.chain.append(Residual(own, shortcut))
    walk.writers = []  # of the sum there is more than one
    _parts(walk, name, block, "relu")


def _below(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


_HOOKS = "_forward_hooks", "_forward_pre_hooks"
_READERS: dict[type[nn.Module], Reader] = {
    **LEAVES,
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
