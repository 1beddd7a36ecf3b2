"""The list of checks, and the call that runs them.

Each check reports pass, warn or fail, with a number, a sentence and advice. After a failure the
robust accuracy should not be taken as the model's robustness; a warning deserves a look.
"""

import io
import warnings
from collections.abc import Callable

from ...utils.progress import track
from ..results import Check
from . import binarization, comparisons, model, result
from .case import CHECK_SIZES, Case, Probe

CHECKS: tuple[Callable[[Probe], Check], ...] = (
    model.deterministic,
    model.probabilities,
    model.agreement,
    model.gradients,
    model.dead_classes,
    model.saturation,
    model.finite_differences,
    comparisons.one_step,
    comparisons.larger_eps,
    comparisons.unbounded_eps,
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
        case: The model, the images, and the result of the evaluation.
        budget: ``"quick"`` looks at 32 images, ``"standard"`` at 128, ``"thorough"`` at 512.
        progress: Whether to show progress on stderr.

    Raises:
        ValueError: There is no such budget.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from fastrobust.evaluation import ThreatModel
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).requires_grad_(False)
        >>> x = torch.rand(20, 1, 2, 2)
        >>> results = inspect(Case(net, x, net(x).argmax(1), ThreatModel("linf", 0.05)), "quick")
        >>> [check.name for check in results if check.verdict == "fail"]
        []
    """
    if budget not in CHECK_SIZES:
        raise ValueError(f"budget must be one of {', '.join(CHECK_SIZES)}, got {budget!r}")
    probe = Probe(case, CHECK_SIZES[budget])
    results: list[Check] = []
    with (
        track(len(CHECKS), "check", None if progress else io.StringIO()) as tracker,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UserWarning)  # about NaN: a check reports it
        for check in CHECKS:
            results.append(check(probe))
            tracker.note(results[-1].name)
            tracker.advance()
    return results
