"""Loss, input gradient and decision of rows: what an attack asks of a network.

An attack asks an :class:`Oracle` and never sees how the answer came: from the fused engine for a
DenseNet, through autograd for any other network (``backends.py``). The body of the network runs in
the dtype of its parameters, or as :func:`fastrobust.engine.prepare` says; head, loss and decision
in at least float32.
"""

from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from ..models.classifier import Classifier
from ..models.heads import Head
from .answers import Answer, Leaders, join
from .backends import Backend
from .cuda_graphs import Graphs
from .objectives import Loss, leading, loss_and_decision

_SMALL = 2.0**-20  # below it a gradient is made larger on its way through the network


class Oracle:
    """Answers questions about rows of one classifier; made by :func:`fastrobust.engine.oracle`.

    Rows are independent: a question is asked in as many calls as the backend's memory takes.

    Args:
        classifier: the classifier that is attacked.
        search: the backend of an attack's questions.
        exact: the backend of decisions.
        dtype: of the network's weights, which images are brought to; None leaves them as they are.
        graph: whether gradients are replayed as CUDA graphs.

    Attributes:
        classifier: the classifier that is attacked.
        search: the backend that answers questions of an attack.
        exact: the backend that decides, in float32 whatever the precision of `search`.
        graphs: CUDA graphs of its gradients, or None.
        evaluations: forwards and backwards of one row that it has asked for.
    """

    def __init__(
        self,
        classifier: Classifier,
        search: Backend,
        exact: Backend,
        dtype: torch.dtype | None,
        graph: bool = False,
    ) -> None:
        self.classifier, self.search, self.exact = classifier, search, exact
        self.graphs = Graphs() if graph else None
        self.evaluations = 0
        self._dtype = dtype

    def num_classes(self, x: Tensor) -> int:
        """Number of classes K; asks the network about the first image where the head leaves it."""
        head = self.head
        if head.vectors is not None:
            return head.vectors.shape[0]
        with torch.no_grad():
            return head.num_classes(self._pre_activation(x[:1], self.exact).shape[1])

    @property
    def head(self) -> Head:
        """What the network's outputs mean."""
        return self.classifier.head

    def gradient(
        self,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        sign: Tensor,
        label: Tensor | None = None,
        rival: Tensor | None = None,
        confirm: bool = True,
    ) -> Answer:
        """Loss and input gradient: one forward and one backward of every row.

        Args:
            x: (N, ...) images.
            y: (N,) int64 labels or targets.
            loss: a loss of :mod:`fastrobust.objectives`.
            sign: (N,) factor of the loss: 1 to climb away from y, -1 to climb towards it.
            label: (N, d) label vectors, where the loss is one on units.
            rival: (N,) int64 class to be decided instead of y, where the loss is towards one.
            confirm: whether decisions end rows, and must be float32's where they would.
        """
        chunks = self._chunks(x, y, sign, label, rival)
        if self.graphs is None or not isinstance(loss, str):
            return join([self._gradient(loss, confirm, *rows) for rows in chunks])
        ask = partial(self._gradient, loss, confirm)
        before = self.evaluations  # a replay does not count by itself
        parts = [self.graphs.ask(ask, (loss, confirm), *rows) for rows in chunks]
        twice = self.search is self.exact or not confirm
        self.evaluations = before + (2 if twice else 3) * len(x)
        return join(parts)

    def score(
        self,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        sign: Tensor,
        label: Tensor | None = None,
        rival: Tensor | None = None,
    ) -> Answer:
        """Like :meth:`gradient` without the gradient: one forward of every row."""
        chunks = self._chunks(x, y, sign, label, rival)
        return join([self._score(loss, *rows) for rows in chunks])

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z (N, d), the decision (N,) and whether it is valid (N,): one forward of a row."""
        parts = []
        with torch.no_grad():
            for rows in x.split(self.exact.rows(x)):
                z = self._pre_activation(rows, self.exact)
                parts.append((z, self.head.decide(z), ~z.isnan().any(1)))
        z, decision, valid = map(torch.cat, zip(*parts, strict=True))
        return z, decision, valid

    def leaders(self, x: Tensor, count: int, view: str) -> Leaders:
        """Gaps behind the highest output: one forward, then one backward for each of the others.

        Args:
            x: (N, ...) images.
            count: number m of outputs to look at, the highest included; at most all are.
            view: ``"class"`` or ``"units"``, see :func:`fastrobust.objectives.leading`.
        """
        rows = x.split(self.search.rows(x))
        parts = [self._leaders(part, count, view) for part in rows]
        return parts[0] if len(parts) == 1 else Leaders(*map(torch.cat, zip(*parts, strict=True)))

    def _leaders(self, x: Tensor, count: int, view: str) -> Leaders:
        x, z = self._forward(x)
        gaps, cotangents = leading(self.head, z.detach(), count, view)
        rivals = gaps.shape[1]
        slopes = x.new_empty(len(x), rivals, *x.shape[1:])
        for k in range(rivals):
            slopes[:, k] = self._backward(z, x, cotangents[:, k], keep=k + 1 < rivals)
        valid = ~(z.isnan().any(1) | slopes.flatten(1).sum(1).isnan())
        return Leaders(z.detach(), gaps, slopes, valid)

    def _gradient(
        self, loss: Loss, confirm: bool, x: Tensor, y: Tensor, sign: Tensor,
        label: Tensor | None, rival: Tensor | None,
    ) -> Answer:  # fmt: skip
        x, z = self._forward(x)
        value, cotangent, decision = loss_and_decision(self.head, z.detach(), y, loss, label, rival)
        if confirm:
            decision = self._confirmed(decision, x.detach(), y, sign)
        grad = self._backward(z, x, cotangent * sign.to(z.dtype)[:, None])
        valid = ~(z.isnan().any(1) | grad.flatten(1).sum(1).isnan())
        return Answer(z.detach(), value * sign.to(z.dtype), grad.contiguous(), decision, valid)

    def _score(
        self, loss: Loss, x: Tensor, y: Tensor, sign: Tensor,
        label: Tensor | None, rival: Tensor | None,
    ) -> Answer:  # fmt: skip
        with torch.no_grad():
            z = self._pre_activation(x, self.search)
        value, _, decision = loss_and_decision(self.head, z, y, loss, label, rival)
        decision = self._confirmed(decision, x, y, sign)
        return Answer(z, value * sign.to(z.dtype), z[:, :0], decision, ~z.isnan().any(1))

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x as a leaf, and the pre-activations (N, d) with their graph back to it."""
        x = x.detach().requires_grad_()
        z = self._pre_activation(x, self.search)
        if not z.requires_grad:
            raise ValueError("the model's output must be differentiable by its input, got no graph")
        return x, z

    def _backward(self, z: Tensor, x: Tensor, cotangent: Tensor, keep: bool = False) -> Tensor:
        """Gradient (N, ...) by x of what has the gradient `cotangent` (N, d) by z."""
        # A head that is sure of itself, or a mean squared error in float16, sends back numbers so
        # small that the network would lose them, or count them as denormals, ten times as slowly.
        unit = _unit(cotangent, 1.0 if self._dtype is torch.float16 else _SMALL)
        scaled = cotangent if unit is None else cotangent / unit
        (grad,) = torch.autograd.grad(z, x, scaled, retain_graph=keep)
        self.evaluations += len(x)
        # Not in place: a model may hand out one number for many pixels.
        return grad if unit is None else grad * unit.to(grad.dtype).view(-1, *[1] * (x.dim() - 1))

    def _confirmed(self, decision: Tensor, x: Tensor, y: Tensor, sign: Tensor) -> Tensor:
        """Return the decision (N,), float32's where it would end a row.

        A search that stops where a less exact network is fooled first has fooled that network
        alone: on digits it left PGD 0.02 more of the images than float32 did.
        """
        if self.search is self.exact:
            return decision
        reached = (decision != y) == (sign > 0)
        if self.graphs is not None:  # nothing may wait for the device
            return torch.where(reached, self._exact_decision(x), decision)
        places = reached.nonzero().flatten()
        if len(places):
            decision = decision.index_put((places,), self._exact_decision(x[places]))
        return decision

    def _exact_decision(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.head.decide(self._pre_activation(x, self.exact))

    def _pre_activation(self, x: Tensor, backend: Backend) -> Tensor:
        self.evaluations += len(x)
        if self._dtype is not None:
            x = x.to(self._dtype)
        if backend is self.search:  # its precision holds, as it must on the way back
            return self.classifier.pre_activation(x, backend)
        with backend.holding():
            return self.classifier.pre_activation(x, backend)

    def _chunks(
        self, x: Tensor, y: Tensor, sign: Tensor, *others: Tensor | None
    ) -> Iterator[tuple[Any, ...]]:
        """Cut along the rows; what is not there is not there in any piece."""
        size = self.search.rows(x)
        if len(x) <= size:  # as usual; a step with a small network is short
            return iter([(x, y, sign, *others)])
        cut = [repeat(None) if t is None else t.split(size) for t in (x, y, sign, *others)]
        return zip(*cut, strict=False)


def _unit(rows: Tensor, small: float) -> Tensor | None:
    """Return a power of two near the largest magnitude of each row (N, 1) that is below `small`.

    None where no row needs one; a GPU would have to wait to see that.
    """
    peak = rows.abs().amax(1, keepdim=True)
    if len(rows) and not rows.is_cuda and float(peak.min()) >= small:
        return None
    power = torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent)
    return torch.where((peak < small) & (peak > 0), power, 1.0)
