"""The end of a network in PyTorch at its best: gradient by hand, every temporary allocated once."""

import torch
from torch import Tensor


class TorchHead:
    """What `fastrobust.ops.head` computes, for losses ce, mse and margin.

    Args:
        z: (N, d) pre-activations.
        codes: (K, d) codewords under tanh, or None for logits under softmax.
        y: (N,) labels.
        loss: ``"ce"``, ``"mse"`` (with codes) or ``"margin"``.
    """

    def __init__(self, z: Tensor, codes: Tensor | None, y: Tensor, loss: str) -> None:
        self.z, self.codes, self.column, self.loss = z, codes, y[:, None], loss
        rows, width = z.shape
        classes = width if codes is None else len(codes)
        self.units, self.slope, self.dz = (torch.empty_like(z) for _ in range(3))
        self.scores, self.others, self.weight = (z.new_empty(rows, classes) for _ in range(3))
        self.own, self.rival, self.value = (z.new_empty(rows, 1) for _ in range(3))
        self.place, self.decision = (torch.empty_like(self.column) for _ in range(2))
        self.inverse_temperature = 1.0
        if codes is not None:
            self.inverse_temperature = 12 / width
            self.bias = codes.square().sum(1) * (-self.inverse_temperature / 2)
            self.codes_t = codes.T.contiguous()
            self.target = codes[y]

    def __call__(self) -> None:
        """Compute loss (value), dz, decision and margin (own)."""
        scores = self.z
        if self.codes is not None:
            torch.tanh(self.z, out=self.units)
            scores = torch.addmm(
                self.bias, self.units, self.codes_t, alpha=self.inverse_temperature, out=self.scores
            )
        torch.max(scores, 1, keepdim=True, out=(self.rival, self.decision))
        torch.gather(scores, 1, self.column, out=self.own)
        self.others.copy_(scores).scatter_(1, self.column, -torch.inf)
        torch.max(self.others, 1, keepdim=True, out=(self.rival, self.place))
        self.own.sub_(self.rival)
        if self.loss == "mse":
            torch.sub(self.units, self.target, out=self.dz)
            torch.linalg.vector_norm(self.dz, dim=1, keepdim=True, out=self.value)
            self.value.square_().div_(self.z.shape[1])
            self._through_tanh(2 / self.z.shape[1])
            return
        if self.loss == "ce":
            torch.log_softmax(scores, 1, out=self.weight)
            torch.gather(self.weight, 1, self.column, out=self.value).neg_()
            self.weight.exp_()
            self.weight.scatter_add_(1, self.column, -torch.ones_like(self.value))
        else:
            torch.neg(self.own, out=self.value)
            self.weight.zero_().scatter_(1, self.place, 1.0).scatter_(1, self.column, -1.0)
        if self.codes is not None:
            torch.mm(self.weight, self.codes, out=self.dz)
            self._through_tanh(self.inverse_temperature)

    def _through_tanh(self, factor: float) -> None:
        """Multiply dz by factor (1 - tanh^2)."""
        torch.mul(self.units, self.units, out=self.slope)
        self.dz.mul_(self.slope.sub_(1).mul_(-factor))
