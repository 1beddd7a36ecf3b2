"""Flags the numbers of a run that should not be believed.

They are symptoms of masked gradients, by the rules of :mod:`fastrobust.evaluation.comparisons`. The
attacks of a run see the same images, so it is known which ones each of them broke.
"""

from collections.abc import Callable, Iterator, Mapping

from ..attacks.base import from_repr
from ..evaluation.comparisons import Survival, beats, survivors
from .results import Result, Run
from .tables import Mark

Marks = Mapping[Result, tuple[Mark, ...]]

CLAIMED, LARGER, ONE_STEP, SURVIVORS, TRANSFER = "≠", "↑", "①", "∞", "⇄"
LEGEND = {
    CLAIMED: "The attack's own success test and the classifier's decision differ on some images.",
    LARGER: "A larger eps, c or m leaves higher robust accuracy: the attack fails.",
    ONE_STEP: "A single step within the same eps is stronger than this iterative attack.",
    SURVIVORS: "An unbounded attack fails on images that another attack or a guess would break.",
    TRANSFER: "Images made on another classifier are stronger than the attack on this one.",
}


def find_flags(run: Run) -> Marks:
    """Return the marks of every result that has any."""
    marks: dict[Result, list[Mark]] = {}
    for rule in _RULES:
        for result, sign, sentence in rule(run):
            marks.setdefault(result, []).append(Mark(sign, sentence))
    return {result: tuple(several) for result, several in marks.items()}


Flag = tuple[Result, str, str]  # the result, the sign, a sentence


def _claims(run: Run) -> Iterator[Flag]:
    for result in run.select(source=None):  # a transfer's claims are about its source
        if result.cell.attack and (count := result.disagreements):
            yield (
                result,
                CLAIMED,
                (
                    f"The attack's own success test and the decision differ on {count} of "
                    f"{result.rate.count} images."
                ),
            )


def _larger(run: Run) -> Iterator[Flag]:
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
            if _loses(result, to=strongest):
                metric = "targeted success falls" if result.cell.targeted else "accuracy rises"
                yield (
                    result,
                    LARGER,
                    (
                        f"From {result.cell.parameter} = {strongest.value:g} to {result.value:g}, "
                        f"{metric} from {strongest.rate.value:.3f} to {result.rate.value:.3f}."
                    ),
                )
            strongest = min(strongest, result, key=lambda r: r.defended)


def _one_steps(run: Run) -> Iterator[Flag]:
    """Compare every iterative result with the best one-step one of no larger eps."""
    by_eps = list(run.select(parameter="eps"))
    single = [result for result in by_eps if _is_one_step(result)]
    for result in by_eps:
        cell = result.cell
        rivals = (
            rival
            for rival in single
            if (rival.cell.table, rival.cell.model) == (cell.table, cell.model)
            and rival.value <= result.value
        )
        best = min(rivals, key=lambda r: r.defended, default=None)
        if best is not None and not _is_one_step(result) and _loses(result, to=best):
            yield (
                result,
                ONE_STEP,
                (
                    f"{best.cell.column} reaches {best.rate.value:.3f} in one step at eps = "
                    f"{best.value:g}, {cell.column} only {result.rate.value:.3f} in many steps "
                    f"at eps = {result.value:g}."
                ),
            )


def _survivors(run: Run) -> Iterator[Flag]:
    """Look for images that an unbounded attack fails on: more than a guess would, or a rival."""
    guess = 1 / len(run.facts["data"]["class_names"])
    for result in run.results:
        cell, rate = result.cell, result.rate.value
        if cell.source is not None or not cell.attack or not from_repr(cell.attack).unbounded:
            continue
        rivals = (r for r in run.select(model=cell.model, targeted=cell.targeted) if r.cell.attack)
        best = min(rivals, key=lambda r: r.defended)
        better = ""
        if _loses(result, to=best):
            better = f"{best.cell.words} {'reaches' if cell.targeted else 'leaves'} "
            better += f"{best.rate.value:.3f}."
        if cell.targeted and better:
            yield result, SURVIVORS, f"Without a bound only {rate:.3f} reach their target. {better}"
        elif not cell.targeted and survivors(_survival(result), guess) == "fail":
            sentence = f"Without a bound accuracy stays at {rate:.3f}, a guess has {guess:.3f}."
            yield result, SURVIVORS, f"{sentence} {better}".strip()


def _transfers(run: Run) -> Iterator[Flag]:
    """Compare every transfer with the same attack on the victim, and flag both."""
    for result in run.results:
        twin = run.twin(result)
        if twin is not None and _loses(twin, to=result):
            cell = result.cell
            metric = "success" if cell.targeted else "accuracy"
            sentence = (
                f"Made on {cell.source}, {cell.words} brings {cell.model} to {metric} "
                f"{result.rate.value:.3f}; made on {cell.model} itself, to {twin.rate.value:.3f}."
            )
            yield from ((flagged, TRANSFER, sentence) for flagged in (result, twin))


_RULES: tuple[Callable[[Run], Iterator[Flag]], ...] = (
    _claims, _larger, _one_steps, _survivors, _transfers,
)  # fmt: skip


def _is_one_step(result: Result) -> bool:
    attack = result.cell.attack
    return attack is not None and getattr(from_repr(attack), "steps", None) == 1


def _survival(result: Result) -> Survival:
    return Survival.of(result.rows["success"] if result.cell.targeted else result.broken)


def _loses(result: Result, to: Result) -> bool:
    """Return whether an attack that may do less does better, see ``comparisons.beats``."""
    return beats(_survival(to), _survival(result)) == "fail"
