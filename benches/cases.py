"""What is measured: each op, its reference as written, and the best in-place PyTorch form."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrobust.ops.cw_step_op import CwRows, cw_step_ref_, launch_cw_step
from fastrobust.ops.decode_op import decode, decode_ref
from fastrobust.ops.deepfool_op import deepfool_ref_, launch_deepfool
from fastrobust.ops.head_op import head_ref, launch_head, tanh_mse, tanh_mse_ref
from fastrobust.ops.lbfgs_op import launch_lbfgs, lbfgs_direction_ref
from fastrobust.ops.random_start_op import launch_start, random_start_ref_
from fastrobust.ops.square_op import SquareRows, launch_square, square_ref_
from fastrobust.ops.step_op import launch_step, step_ref_

from .torch_cw import TorchCW
from .torch_head import TorchHead

EPS, STEP_SIZE = 8 / 255, 2 / 255
CLASSES, LENGTH = 10, 128  # the paper's: 10 codewords of 128 units
HISTORY = 10  # pairs that L-BFGS remembers


@dataclass(frozen=True)
class Case:
    """One op on one batch.

    Attributes:
        name: of the op and its variant.
        rows: images in the batch.
        kernel: the fused form.
        reference: the ``_ref`` as written.
        in_place: PyTorch at its best, every temporary allocated before; None where it has none.
        bytes: that the kernel must read and write at least.
    """

    name: str
    rows: int
    kernel: Callable[[], object]
    reference: Callable[[], object]
    in_place: Callable[[], object] | None
    bytes: int


def step_cases(rows: int, device: torch.device) -> list[Case]:
    """Updates of 3 x 32 x 32 images."""
    x0 = torch.rand(rows, 3, 32, 32, device=device)
    x, grad, momentum = x0.clone(), torch.randn_like(x0), torch.zeros_like(x0)
    buffer, column = torch.empty_like(x0), torch.empty(rows, 1, 1, 1, device=device)

    def project() -> None:
        torch.sub(x0, EPS, out=buffer)
        torch.maximum(x, buffer, out=x)
        torch.add(x0, EPS, out=buffer)
        torch.minimum(x, buffer, out=x)
        x.clamp_(0, 1)

    def sign() -> None:
        torch.sign(grad, out=buffer)
        x.add_(buffer, alpha=STEP_SIZE)
        project()

    def momentum_() -> None:
        torch.abs(grad, out=buffer)
        torch.mean(buffer, dim=(1, 2, 3), keepdim=True, out=column)
        torch.div(grad, column.clamp_(min=1e-12), out=buffer)
        torch.sign(momentum.add_(buffer), out=buffer)
        x.add_(buffer, alpha=STEP_SIZE)
        project()

    def l2() -> None:
        torch.linalg.vector_norm(grad, dim=(1, 2, 3), keepdim=True, out=column)
        torch.div(grad, column.clamp_(min=1e-12), out=buffer)
        x.add_(buffer, alpha=STEP_SIZE).sub_(x0)
        torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True, out=column)
        column.clamp_(min=EPS).reciprocal_().mul_(EPS)
        x.mul_(column).add_(x0).clamp_(0, 1)

    cases = []
    for kind, best, passes in (("sign", sign, 4), ("momentum", momentum_, 6), ("l2", l2, 4)):
        state = momentum if kind == "momentum" else None
        call = (x, x0, grad, state, kind, EPS, STEP_SIZE, 1.0, 0.0, 1.0)
        cases.append(
            Case(
                f"step_ {kind}",
                rows,
                lambda call=call: launch_step(*call),
                lambda call=call: step_ref_(*call),
                best,
                passes * x.nbytes,
            )
        )
    return cases


def head_cases(rows: int, device: torch.device) -> list[Case]:
    """The end of a network: 10 codewords of 128 units, or 10 logits."""
    codes = torch.rand(CLASSES, LENGTH, device=device) * 2 - 1
    y = torch.randint(0, CLASSES, (rows,), device=device)
    z, logits = torch.randn(rows, LENGTH, device=device), torch.randn(rows, CLASSES, device=device)
    cases = []
    for activation, loss, inputs, vectors in (
        ("tanh", "ce", z, codes),
        ("tanh", "mse", z, codes),
        ("tanh", "margin", z, codes),
        ("softmax", "ce", logits, None),
    ):
        call = (inputs, vectors, y, activation, loss)
        cases.append(
            Case(
                f"head {activation} {loss}",
                rows,
                lambda call=call: launch_head(*call),
                lambda call=call: head_ref(*call),
                TorchHead(inputs, vectors, y, loss),
                2 * inputs.nbytes,
            )
        )
    return cases


def other_cases(rows: int, device: torch.device) -> list[Case]:
    """Decoding, the training loss and random starts."""
    u, codes = _units(rows, device), _units(CLASSES, device)
    x0 = torch.rand(rows, 3, 32, 32, device=device)
    index = torch.arange(rows, device=device)
    start = (torch.empty_like(x0), x0, "linf", EPS, 1, index, 0)
    return [
        Case(
            "decode", rows, lambda: decode(u, codes), lambda: decode_ref(u, codes), None, u.nbytes
        ),
        Case("tanh_mse", rows, lambda: tanh_mse(u, u), lambda: tanh_mse_ref(u, u), None, u.nbytes),
        Case(
            "random_start_ linf",
            rows,
            lambda: launch_start(*start),
            lambda: random_start_ref_(*start),
            None,
            2 * x0.nbytes,
        ),
    ]


def search_cases(rows: int, device: torch.device) -> list[Case]:
    """Steps of the attacks that search, on 3 x 32 x 32 images."""
    x0 = torch.rand(rows, 3, 32, 32, device=device)
    return [_cw_case(x0), _deepfool_case(x0), _lbfgs_case(x0), _square_case(x0)]


def _cw_case(x0: Tensor) -> Case:
    """CWL2 before its first success: every image is the best so far, and is kept."""
    grad, f, hit = torch.randn_like(x0), torch.ones_like(x0[:, 0, 0, 0]), torch.zeros(len(x0)) > 0
    hit = hit.to(x0.device)
    ours, theirs = (CwRows.fresh(x0, torch.ones_like(f)) for _ in range(2))
    numbers = {"iterations": 10**6, "searches": 5, "patience": 100, "learning_rate": 5e-3}
    in_place = TorchCW(theirs, **numbers)
    launch_cw_step(ours, grad, f, hit, *numbers.values(), math.inf, 0.0, 1.0)  # to iteration 0

    def falling() -> Tensor:
        return f.mul_(0.999)

    return Case(
        "cw_step_",
        len(x0),
        lambda: launch_cw_step(ours, grad, falling(), hit, *numbers.values(), math.inf, 0.0, 1.0),
        lambda: cw_step_ref_(ours, grad, falling(), hit, **numbers),
        lambda: in_place(grad, falling(), hit),
        11 * x0.nbytes,
    )


def _deepfool_case(x0: Tensor) -> Case:
    """A step of DeepFool with the slopes of all rivals at hand."""
    rivals = CLASSES - 1
    slopes = torch.randn(len(x0), rivals, *x0.shape[1:], device=x0.device)
    call = (x0.clone(), torch.zeros_like(x0), x0, slopes, slopes[:, :, 0, 0, 0].contiguous())
    return Case(
        "deepfool_",
        len(x0),
        lambda: launch_deepfool(*call),
        lambda: deepfool_ref_(*call),
        None,
        (rivals + 4) * x0.nbytes,
    )


def _lbfgs_case(x: Tensor) -> Case:
    """A direction from a full history whose pairs all count."""
    rows, device = len(x), x.device
    s = torch.randn(rows, HISTORY, *x.shape[1:], device=device)
    rho = 1 / s.flatten(2).square().sum(2)
    pairs = torch.full((rows,), HISTORY, device=device)
    call = (s, s.clone(), rho, pairs, x, torch.randn_like(x))
    return Case(
        "lbfgs_direction",
        rows,
        lambda: launch_lbfgs(*call),
        lambda: lbfgs_direction_ref(*call),
        None,
        (2 * HISTORY + 3) * x.nbytes,
    )


def _square_case(x0: Tensor) -> Case:
    """A step of Square with windows of 4x4 pixels; about as often as in a search x is held."""
    rows, device = len(x0), x0.device
    ours = SquareRows.fresh(x0, x0.new_full((rows,), EPS))
    yes, sides = torch.ones(rows, dtype=torch.bool, device=device), torch.tensor([[4, 4]] * 2)
    better = torch.where(torch.arange(rows, device=device) % 8 == 0, 0.0, -torch.inf).double()
    call = (ours, better, ~yes, yes, yes, sides.to(device))

    def begun() -> None:
        ours.iteration.zero_()
        ours.held_loss.fill_(-1)

    return Case(
        "square_",
        rows,
        lambda: (begun(), launch_square(*call)),
        lambda: (begun(), square_ref_(*call)),
        None,
        3 * x0.nbytes,
    )


def _units(rows: int, device: torch.device) -> Tensor:
    return torch.rand(rows, LENGTH, device=device) * 2 - 1


CASES = step_cases, head_cases, search_cases, other_cases
