"""Questions to a network on a GPU as CUDA graphs: launched kernel by kernel once, then replayed.

Small batches on a GPU wait for launches more than for arithmetic. A graph is made for each shape of
a question; what it reads and writes has a place of its own, so that a replay copies the question in
and the answer out.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

A = TypeVar("A", bound=tuple[Tensor, ...])

# Calls before a capture, in which libraries choose their algorithms.
_WARM_UP = 2


class _Captured(NamedTuple):
    graph: "torch.cuda.CUDAGraph"
    question: list[Tensor | None]
    answer: tuple[Tensor, ...]


class Graphs:
    """Captures questions of equal shape once and replays them.

    The network's weights must stay where they are while this is in use.
    """

    def __init__(self) -> None:
        self._captured: dict[Hashable, _Captured] = {}

    def ask(self, ask: Callable[..., A], key: Hashable, *question: Tensor | None) -> A:
        """Return what ``ask(*question)`` returns, in memory of its own.

        Args:
            ask: kernels on the current stream only: nothing that waits for the device.
            key: what else the answer depends on.
            *question: tensors on one GPU; None for one that is absent.
        """
        shapes = tuple(None if t is None else (t.shape, t.dtype) for t in question)
        captured = self._captured.get((key, shapes))
        if captured is None:
            captured = self._captured[key, shapes] = _capture(ask, question)
        for memory, tensor in zip(captured.question, question, strict=True):
            if memory is not None and tensor is not None:
                memory.copy_(tensor)
        captured.graph.replay()
        copies = (tensor.clone() for tensor in captured.answer)
        return type(captured.answer)(*copies)  # type: ignore[return-value]


def _capture(ask: Callable[..., A], question: tuple[Tensor | None, ...]) -> _Captured:
    places = [None if t is None else t.detach().clone() for t in question]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            ask(*places)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = ask(*places)
    return _Captured(graph, places, tuple.__new__(type(answer), answer))
