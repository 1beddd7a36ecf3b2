"""Checks that say when not to believe a robust accuracy.

Each gives pass, warn or fail with its number, a sentence and advice. A failure says that the number
is not the model's robustness; a warning, that somebody should look.
"""

import io
import warnings
from collections.abc import Callable

from ...utils.progress import track
from . import binarization, comparisons, model, result
from .case import EFFORTS, Case, Check, Probe

__all__ = ["CHECKS", "Case", "Check", "inspect"]

CHECKS: tuple[Callable[[Probe], Check], ...] = (
    model.deterministic,
    model.probabilities,
    model.agreement,
    model.gradients,
    model.dead_classes,
    model.saturation,
    model.finite_differences,
    comparisons.one_step,
    comparisons.budget,
    comparisons.no_budget,
    comparisons.more_steps,
    comparisons.more_restarts,
    comparisons.transfer,
    comparisons.queries,
    comparisons.noise,
    comparisons.scale,
    comparisons.surrogates,
    result.last_iterate,
    result.rising,
    result.inside,
    result.eight_bits,
    result.again,
    result.one_attack,
    binarization.binarized,
)


def inspect(case: Case, budget: str = "standard", progress: bool = False) -> list[Check]:
    """Run every check on a case.

    Args:
        case: What was evaluated, and what came of it.
        budget: ``"quick"`` looks at 32 images, ``"standard"`` at 128, ``"thorough"`` at 512.
        progress: Whether to show on stderr how far it is.

    Raises:
        ValueError: There is no such budget.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).requires_grad_(False)
        >>> x = torch.rand(20, 1, 2, 2)
        >>> found = inspect(Case(net, x, net(x).argmax(1), eps=0.05), "quick")
        >>> [check.name for check in found if check.verdict == "fail"]
        []
    """
    if budget not in EFFORTS:
        raise ValueError(f"budget must be one of {', '.join(EFFORTS)}, got {budget!r}")
    probe, found = Probe(case, EFFORTS[budget]), []
    with (
        track(len(CHECKS), "check", None if progress else io.StringIO()) as tracker,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UserWarning)  # of NaN: a check says so itself
        for check in CHECKS:
            found.append(check(probe))
            tracker.note(found[-1].name)
            tracker.advance()
    return found
