"""Says by itself when a number should not be believed.

The symptoms of masked gradients (Athalye, Carlini, Wagner 2018, arXiv:1802.00420, section 3.1): an
attack that does worse with more budget, one step that beats many, images that no unbounded attack
gets, a transfer that beats the white box, a success that is none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..attacks import from_repr
from .results import Result, Run

IMAGES_FORGIVEN = 2  # a difference of two images may be chance at any size of the sample


@dataclass(frozen=True)
class Mark:
    """One reason to doubt one result: the sign in the table, and a sentence."""

    sign: str
    sentence: str


Marks = dict[Result, tuple[Mark, ...]]

# Attacks that may move an image as far as they like.
UNBOUNDED = ("CWL2", "DeepFool", "FAB", "LBFGS", "ModifiedCWL2")

CLAIMED, BUDGET, ONE_STEP, SURVIVORS, TRANSFER = "≠", "↑", "①", "∞", "⇄"
LEGEND = {
    CLAIMED: "The attack's own test and the classifier's decision differ on some images.",
    BUDGET: "More budget helps the defender, so the attack fails, not the classifier holds.",
    ONE_STEP: "One step with no more budget does better than this iterative attack.",
    SURVIVORS: "Nothing bounds this attack, yet it spares images: it measures itself.",
    TRANSFER: "Images made against another classifier do better than the attack on this one.",
}


def find(run: Run) -> Marks:
    """Return the marks of every result that has any."""
    found: dict[Result, list[Mark]] = {}
    for rule in (_claims, _budgets, _one_steps, _survivors, _transfers):
        for result, mark in rule(run):
            found.setdefault(result, []).append(mark)
    return {result: tuple(marks) for result, marks in found.items()}


def _claims(run: Run) -> Iterator[tuple[Result, Mark]]:
    for result in run.select(source=None):  # the belief of a transfer is about its source
        if result.cell.attack and (count := result.disagreements):
            sentence = (
                f"The attack's own test and the decision differ on {count} of "
                f"{result.rate.count} images."
            )
            yield result, Mark(CLAIMED, sentence)


def _budgets(run: Run) -> Iterator[tuple[Result, Mark]]:
    """Compare every result with the strongest one of its group at a smaller parameter."""
    groups: dict[tuple[object, ...], list[Result]] = {}
    for result in run.results:
        cell = result.cell
        if cell.value is not None:
            group = (cell.table, cell.column, cell.view, cell.source, cell.model)
            groups.setdefault(group, []).append(result)
    for members in groups.values():
        strongest, *rest = sorted(members, key=lambda r: r.value)
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


def _one_steps(run: Run) -> Iterator[tuple[Result, Mark]]:
    """Compare every iterative result with the best one-step one of no larger eps."""
    by_eps = list(run.select(parameter="eps"))
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


def _survivors(run: Run) -> Iterator[tuple[Result, Mark]]:
    """Look for images that an unbounded attack spares: more than a guess would, or a rival does."""
    guess = 1 / len(run.facts["data"]["class_names"])
    for result in run.results:
        cell, rate = result.cell, result.rate.value
        if cell.source is not None or (cell.attack or "").partition("(")[0] not in UNBOUNDED:
            continue
        rivals = (r for r in run.select(model=cell.model, targeted=cell.targeted) if r.cell.attack)
        best = min(rivals, key=lambda r: r.defended)
        better = ""
        if _clearly_worse(result, than=best):
            better = f"{best.cell.words} {'reaches' if cell.targeted else 'leaves'} "
            better += f"{best.rate.value:.3f}."
        if cell.targeted and better:
            sentence = f"Only {rate:.3f} reach their target at any distance. {better}"
            yield result, Mark(SURVIVORS, sentence)
        elif not cell.targeted and result.rate.interval[0] > guess:
            sentence = f"Accuracy stays at {rate:.3f} at any distance, a guess has {guess:.3f}."
            yield result, Mark(SURVIVORS, f"{sentence} {better}".strip())


def _transfers(run: Run) -> Iterator[tuple[Result, Mark]]:
    """Compare every transfer with the same attack on the judged classifier, and mark both."""
    for result in run.results:
        twin = run.twin(result)
        if twin is not None and _clearly_worse(twin, than=result):
            cell = result.cell
            kind = "success" if cell.targeted else "accuracy"
            sentence = (
                f"Made against {cell.source}, {cell.words} brings {cell.model} to {kind} "
                f"{result.rate.value:.3f}; made against {cell.model} itself, to "
                f"{twin.rate.value:.3f}."
            )
            yield from ((one, Mark(TRANSFER, sentence)) for one in (result, twin))


def _is_one_step(result: Result) -> bool:
    attack = result.cell.attack
    return attack is not None and getattr(from_repr(attack), "steps", None) == 1


def _clearly_worse(result: Result, than: Result) -> bool:
    """Say whether the attacker loses more than two images and more than the interval."""
    lost = result.defended - than.defended
    low, high = than.rate.interval
    outside = not low <= result.rate.value <= high
    return lost * result.rate.count > IMAGES_FORGIVEN + 1e-9 and outside
