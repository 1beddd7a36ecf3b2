"""Notices what changes in a network between two uses: weights, modules, their settings, hooks.

Weights are compared byte by byte with a copy, since an edit through ``.data`` or a NumPy view
raises no version counter. Everything else is compared by identity, which costs a microsecond a
module; what looks different only sends the caller back to a full check.
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
_TABLES = "_parameters", "_buffers", "_modules"


class Watch:
    """Remembers a network as it is now, in eval mode.

    Args:
        net: the network. Its parts are kept alive, so that nothing new can get the identity of an
            old part; the network itself is not.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = weakref.ref(net)
        self._parts = list(net.modules())[1:]
        self._identities = [_identity(module) for module in (net, *self._parts)]
        self._held = [(*vars(m).values(), *_members(m)) for m in (net, *self._parts)]
        self._tensors = list(net.state_dict(keep_vars=True).values())
        self._layouts = [_layout(tensor) for tensor in self._tensors]
        self._bytes = [_bytes(tensor) for tensor in self._tensors]
        self._copy = self._joined()

    def same_structure(self) -> bool:
        """Return whether modules, settings, hooks and the tensors' places are as they were."""
        net = self._net()
        return (
            net is not None
            and [_identity(module) for module in (net, *self._parts)] == self._identities
            and [_layout(tensor) for tensor in self._tensors] == self._layouts
        )

    def same_weights(self) -> bool:
        """Return whether every byte of the weights is as it was; the structure must be the same."""
        return torch.equal(self._joined(), self._copy)

    def _joined(self) -> Tensor:
        joined = torch.cat(self._bytes)
        # Compared eight bytes at a time where they can be.
        return joined.view(torch.int64) if len(joined) % 8 == 0 else joined


def _members(module: nn.Module) -> tuple[Any, ...]:
    return tuple(value for name in _TABLES for value in vars(module)[name].values())


def _identity(module: nn.Module) -> tuple[Any, ...]:
    """Return what changes with the type, a setting, a member or a hook of one module."""
    parts = vars(module)
    return (
        type(module),
        *map(id, parts.values()),
        *map(id, parts["_parameters"].values()),
        *map(id, parts["_buffers"].values()),
        *map(id, parts["_modules"].values()),
        any(parts[hooks] for hooks in HOOKS),
    )


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.stride()


def _bytes(tensor: Tensor) -> Tensor:
    """View the memory of a tensor as bytes (n,); of one with gaps, its whole storage."""
    tensor = tensor.detach()
    if tensor.is_contiguous():
        return tensor.reshape(-1).view(torch.uint8)
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return whole.set_(tensor.untyped_storage())
