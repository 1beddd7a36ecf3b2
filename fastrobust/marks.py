"""Says by itself when a number should not be believed.

The symptoms of masked gradients (Athalye, Carlini, Wagner 2018, arXiv:1802.00420, section 3.1): an
attack that does worse with more budget, one step that beats many, a success that is none.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from .results import Result, Run

IMAGES_FORGIVEN = 2  # a difference of two images may be chance at any size of the sample


@dataclass(frozen=True)
class Mark:
    """One reason to doubt one result: the sign in the table, and a sentence."""

    sign: str
    sentence: str


Marks = dict[Result, tuple[Mark, ...]]

CLAIMED, BUDGET, ONE_STEP = "≠", "↑", "①"
LEGEND = {
    CLAIMED: "The attack's own test and the classifier's decision differ on some images.",
    BUDGET: "More budget helps the defender, so the attack fails, not the classifier holds.",
    ONE_STEP: "One step with no more budget does better than this iterative attack.",
}


def find(run: Run) -> Marks:
    """Return the marks of every result that has any."""
    found: dict[Result, list[Mark]] = {}
    for result, mark in (*_claims(run.results), *_budgets(run.results), *_one_steps(run.results)):
        found.setdefault(result, []).append(mark)
    return {result: tuple(marks) for result, marks in found.items()}


def _claims(results: Iterable[Result]) -> Iterator[tuple[Result, Mark]]:
    for result in results:
        if count := result.disagreements:
            images = "1 image" if count == 1 else f"{count} images"
            yield (
                result,
                Mark(
                    CLAIMED,
                    f"On {images} of {result.rate.count} the attack's own test and the decision "
                    "of the classifier differ.",
                ),
            )


def _budgets(results: Iterable[Result]) -> Iterator[tuple[Result, Mark]]:
    """Compare every result with the strongest one of its group at a smaller parameter."""
    attacked = (result for result in results if result.cell.value is not None)
    for _, group in groupby(attacked, key=lambda r: (r.cell.table, r.cell.column, r.cell.model)):
        strongest: Result | None = None
        for result in sorted(group, key=lambda r: r.cell.value or 0):
            if strongest is not None and _clearly_worse(result, than=strongest):
                what = "targeted success falls" if result.cell.targeted else "accuracy rises"
                yield (
                    result,
                    Mark(
                        BUDGET,
                        f"{result.cell.parameter} = {result.cell.value:g} gives the attack more room "
                        f"than {strongest.cell.value:g}, yet {what} from "
                        f"{strongest.rate.value:.3f} to {result.rate.value:.3f}.",
                    ),
                )
            if strongest is None or result.defended < strongest.defended:
                strongest = result


def _one_steps(results: Iterable[Result]) -> Iterator[tuple[Result, Mark]]:
    """Compare every iterative result with the best one-step one of no larger eps."""
    results = [result for result in results if result.cell.parameter == "eps"]
    single = [result for result in results if _is_one_step(result)]
    for result in results:
        if _is_one_step(result):
            continue
        rivals = [
            one
            for one in single
            if (one.cell.table, one.cell.model) == (result.cell.table, result.cell.model)
            and (one.cell.value or 0) <= (result.cell.value or 0)
        ]
        best = min(rivals, key=lambda r: r.defended, default=None)
        if best is not None and _clearly_worse(result, than=best):
            yield (
                result,
                Mark(
                    ONE_STEP,
                    f"{best.cell.column} reaches {best.rate.value:.3f} in one step at eps = "
                    f"{best.cell.value:g}, {result.cell.column} only {result.rate.value:.3f} in many "
                    f"at eps = {result.cell.value:g}.",
                ),
            )


def _is_one_step(result: Result) -> bool:
    return str(result.cell.attack).startswith("FGSM(")


def _clearly_worse(result: Result, than: Result) -> bool:
    """Say whether the attacker loses more than two images and more than the interval."""
    lost = result.defended - than.defended
    low, high = than.rate.interval
    outside = not low <= result.rate.value <= high
    return lost * result.rate.count > IMAGES_FORGIVEN + 1e-9 and outside
