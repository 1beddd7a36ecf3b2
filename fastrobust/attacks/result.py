"""What an attack returns."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack found for N images; everything is detached and on x's device.

    Attributes:
        adv: (N, ...) adversarial images, like x.
        success: (N,) bool, the model's decision on `adv`, made after the attack in the
            parameters' dtype and at least float32, is the target, or is not the label.
        claimed: (N,) bool, what the attack believed by its own test on what it saw: the argmax of
            the class scores, or, where it looked at the output units of a codeword model, that of
            the units beside its label vector. Differs from `success` where an attack fools itself.
        l2: (N,) Euclidean norm of adv - x, not squared, in x's dtype.
        linf: (N,) largest change of a pixel, in x's dtype.
        queries: (N,) int64, network evaluations of the row until it was done: each forward and each
            backward counts one, those of the label (if none was given) and the decision included.
        decision: (N,) int64, the decided class of `adv`; -1 where there is none.
        invalid: (N,) bool, True where the model gave NaN: then adv is x and success is False.
        stalled: (N,) bool, True where the attack gave up since every gradient was zero.
    """

    adv: Tensor
    success: Tensor
    claimed: Tensor
    l2: Tensor
    linf: Tensor
    queries: Tensor
    decision: Tensor
    invalid: Tensor
    stalled: Tensor

    @classmethod
    def empty(cls, x: Tensor) -> "AttackResult":
        """Return the result for no images, x (0, ...)."""
        flags = torch.zeros(0, dtype=torch.bool, device=x.device)
        sizes, counts, adv = x.new_zeros(0), flags.long(), x.detach().clone()
        return cls(adv, flags, flags, sizes, sizes, counts, counts, flags, flags)
