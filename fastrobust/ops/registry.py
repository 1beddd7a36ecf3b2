"""Registers kernels as PyTorch operations.

A kernel's ``launch_*`` function has its parameters, its documentation and its body: it calls the
kernel without PyTorch's dispatcher, for inner loops. :func:`registered` makes the public operation
of it, which ``torch.compile``, autograd and ``opcheck`` know.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def registered(
    name: str,
    launch: Callable[P, R],
    fake: Callable[..., Any] = lambda *_: None,
    mutates: Sequence[str] = (),
    schema: str | None = None,
    body: Callable[..., Any] | None = None,
    convert: Callable[[dict[str, Any]], None] | None = None,
) -> Callable[P, R]:
    """Return the operation ``fastrobust::<name>`` as a function with the signature of `launch`.

    Args:
        name: the public name.
        launch: what calls the kernel.
        fake: returns tensors of the shapes of the results, from the same arguments.
        mutates: names of the arguments that are written.
        schema: of the operation, where the annotations of `launch` do not tell it.
        body: what the operation runs, where it is not `launch` itself.
        convert: brings arguments, by name, in place, to the types of the schema. The operation then
            returns nothing and the function its first argument.
    """
    operation = torch.library.custom_op(
        f"fastrobust::{name}", body or launch, mutates_args=mutates, schema=schema
    )
    operation.register_fake(fake)
    names = list(inspect.signature(launch).parameters)

    @functools.wraps(launch)
    def public(*args: P.args, **named: P.kwargs) -> Any:
        if convert is None:
            return operation(*args, **named)
        values = {**dict(zip(names, args, strict=False)), **named}
        convert(values)
        operation(**values)
        return values[names[0]]

    public.__name__ = public.__qualname__ = name
    return public
