"""Says by itself when a number should not be believed.

The symptoms of masked gradients (Athalye, Carlini, Wagner 2018, arXiv:1802.00420, section 3.1): an
attack that does worse with more budget, one step that beats many, a success that is none.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .attacks import from_repr
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
            sentence = (
                f"The attack's own test and the decision differ on {count} of "
                f"{result.rate.count} images."
            )
            yield result, Mark(CLAIMED, sentence)


def _budgets(results: Iterable[Result]) -> Iterator[tuple[Result, Mark]]:
    """Compare every result with the strongest one of its group at a smaller parameter."""
    groups: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        cell = result.cell
        if cell.value is not None:
            groups.setdefault((cell.table, cell.column, cell.view, cell.model), []).append(result)
    for group in groups.values():
        strongest, *rest = sorted(group, key=lambda r: r.value)
        for result in rest:
            if _clearly_worse(result, than=strongest):
                cell = result.cell
                sentence = (
                    f"{cell.parameter} = {result.value:g} gives the attack more room than "
                    f"{strongest.value:g}, yet "
                    f"{'targeted success falls' if cell.targeted else 'accuracy rises'} from "
                    f"{strongest.rate.value:.3f} to {result.rate.value:.3f}."
                )
                yield result, Mark(BUDGET, sentence)
            strongest = min(strongest, result, key=lambda r: r.defended)


def _one_steps(results: Iterable[Result]) -> Iterator[tuple[Result, Mark]]:
    """Compare every iterative result with the best one-step one of no larger eps."""
    by_eps = [result for result in results if result.cell.parameter == "eps"]
    single = [result for result in by_eps if _is_one_step(result)]
    for result in by_eps:
        cell = result.cell
        rivals = (
            one
            for one in single
            if (one.cell.table, one.cell.model) == (cell.table, cell.model)
            and one.value <= result.value
        )
        best = min(rivals, key=lambda r: r.defended, default=None)
        if best is not None and not _is_one_step(result) and _clearly_worse(result, than=best):
            sentence = (
                f"{best.cell.column} reaches {best.rate.value:.3f} in one step at eps = "
                f"{best.value:g}, {cell.column} only {result.rate.value:.3f} in many steps "
                f"at eps = {result.value:g}."
            )
            yield result, Mark(ONE_STEP, sentence)


def _is_one_step(result: Result) -> bool:
    attack = result.cell.attack
    return attack is not None and getattr(from_repr(attack), "steps", None) == 1


def _clearly_worse(result: Result, than: Result) -> bool:
    """Say whether the attacker loses more than two images and more than the interval."""
    lost = result.defended - than.defended
    low, high = than.rate.interval
    outside = not low <= result.rate.value <= high
    return lost * result.rate.count > IMAGES_FORGIVEN + 1e-9 and outside
