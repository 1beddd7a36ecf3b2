"""Which published numbers contradict each other: one function per rule.

True robust accuracy is at most the accuracy under any attack. So where two numbers contradict each
other, the one that is better for the defender is wrong: its attack missed what the other one found.
A number that is no better than a guess is never flagged, since it claims nothing. When two numbers
contradict each other is decided by :mod:`fastrobust.evaluation.comparisons`, as in a run, where
more than the numbers is known.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..evaluation.comparisons import DOUBT, LEVEL, beats, survivors
from .contradictions import RULES, Contradiction, chance, rule
from .numbers import Number, Tables

FLAT, WIDE = 0.02, 4.0  # a plateau: rates within FLAT while a parameter grows WIDE times


def contradictions(tables: Tables, only: str | None = None) -> list[Contradiction]:
    """Return every contradiction between numbers that were published together, rule by rule.

    Args:
        tables: The numbers.
        only: The name of one rule; None for all of `RULES`.

    Raises:
        ValueError: There is no such rule.

    >>> from fastrobust.published.numbers import Number, Tables
    >>> single = Number("mnist", "net", "FGSM", 0.33, eps=0.2, steps=1)
    >>> many = Number("mnist", "net", "PGD", 0.97, eps=0.2, steps=40)
    >>> (contradiction,) = contradictions(Tables((single, many)))
    >>> contradiction.rule, contradiction.severity
    ('one-step', 'fail')
    >>> contradiction.sentence
    'PGD (eps = 0.2, steps = 40) leaves 0.970, FGSM (eps = 0.2, steps = 1) 0.330 in a single step.'
    """
    if only is not None and only not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {only!r}")
    return [
        replace(contradiction, rule=name, sentence=f"{contradiction.sentence}.")
        for name in (RULES if only is None else (only,))
        for contradiction in RULES[name].find_all(tables)
    ]


@rule(
    "one-step",
    "One step beats many",
    "Many steps within the same eps include the single one: check the loss that they climb, "
    "vanishing gradients, and the step size.",
)
def _one_step(tables: Tables) -> Iterator[Contradiction]:
    """Look for a single step that is stronger than many steps within no smaller eps."""
    for number in tables.white_box():
        if number.bounded and number.steps != 1:
            single = (n for n in tables.rivals(number) if n.steps == 1 and n.lies_within(number))
            if best := _strongest(single):
                yield from _against(number, best, f"{_brief(best)} in a single step")


@rule(
    "weaker",
    "A weaker attack beats a stronger one",
    "Take the worst case over all attacks, image by image, and find out what stops the stronger "
    "one: its gradients, its success test, its step size.",
)
def _weaker(tables: Tables) -> Iterator[Contradiction]:
    """Look for an attack that is stronger than another one with no bound or more steps."""
    for number in tables.white_box():
        if best := _strongest(n for n in tables.rivals(number) if _is_weaker(n, number)):
            bound = best.bounded and not number.bounded
            why = f"{_brief(best)} {'though it has a bound' if bound else 'in fewer steps'}"
            yield from _against(number, best, why)


@rule(
    "targeted",
    "A targeted attack beats an untargeted one",
    "Attack towards every class, away from the true label, and count an image as broken when one "
    "attack breaks it.",
)
def _targeted(tables: Tables) -> Iterator[Contradiction]:
    """Look for targeted attacks that break more images, though targets are harder to reach.

    Targets are taken to be other classes than the label, as is usual. (In the paper too: otherwise
    a tenth of its images would have reached their targets without any attack.)
    """
    for number in tables.white_box():
        aimed = (
            n
            for n in tables.beside(number)
            if n.targeted and (n.has_no_more(number) or _is_weaker(n, number))
        )
        if not number.targeted and (best := _strongest(aimed)):
            why = f"but {best.words} moves {best.rate:.3f} to a wrong class"
            yield from _against(number, best, why)


@rule(
    "transfer",
    "A transfer attack is as strong as the white box",
    "The gradients of this classifier mislead: start from the transferred images, and attack its "
    "class scores.",
)
def _transfer(tables: Tables) -> Iterator[Contradiction]:
    """Compare with the same attack made on another classifier."""
    for number in tables.white_box():
        setting = "targeted transfer" if number.targeted else "transfer"
        copies = (n for n in tables.beside(number) if n.setting == setting and n.is_like(number))
        if best := _strongest(copies):
            yield from _against(number, best, _brief(best))
            if chance(number, best) >= DOUBT and _bites(number, tables):
                why = f"{_brief(best)}: knowing the classifier helps little"
                yield Contradiction("warn", number, best, f"{number.sentence}, {why}")


@rule(
    "larger",
    "A larger parameter helps the defender",
    "What breaks an image at a smaller eps breaks it at a larger one: keep the best of both, and "
    "let the step size follow eps.",
)
def _larger(tables: Tables) -> Iterator[Contradiction]:
    """Compare with the same attack where some parameter is smaller and none is larger."""
    for number in tables.attacks():
        smaller = (n for n in tables.rivals(number) if n.has_no_more(number))
        if best := _strongest(n for n in smaller if not n.is_like(number)):
            larger = number.parameters
            less = [f"{name} = {v:g}" for name, v in best.parameters.items() if v < larger[name]]
            why = f"and {best.rate:.3f} with {' and '.join(less)} already"
            yield from _against(number, best, why)


@rule(
    "survivors",
    "An unbounded attack leaves survivors",
    "Without a bound no image should survive: compare the success test of the attack with the "
    "decision, and give it more steps.",
)
def _survivors(tables: Tables) -> Iterator[Contradiction]:
    """Look for unbounded attacks that leave more images than a guess is right on."""
    for number in tables.white_box():
        if not number.bounded and survivors(number.survival, tables.guess) == "fail":
            truth = (
                "every image can become any other"
                if number.targeted
                else f"a guess is right on {tables.guess:.3f}"
            )
            yield Contradiction(
                "fail", number, None, f"{number.sentence}, though nothing bounds it and {truth}"
            )


@rule(
    "above-clean",
    "Accuracy is higher under attack than without",
    "Count an image as broken that is misclassified without an attack, and move away from the true "
    "label.",
)
def _above_clean(tables: Tables) -> Iterator[Contradiction]:
    """Compare with the accuracy without an attack."""
    for number in tables.attacks():
        clean = tables.clean(number)
        if clean is not None and not number.targeted:
            why = f"more than the {clean.rate:.3f} without an attack"
            yield from _against(number, clean, why)


@rule("twice", "Two numbers for one measurement", "Ask the authors which one was measured so.")
def _twice(tables: Tables) -> Iterator[Contradiction]:
    """Compare with the same measurement in another table."""
    for number in tables.attacks():
        if best := _strongest(n for n in tables.rivals(number) if n.is_like(number)):
            yield from _against(number, best, f"and {best.rate:.3f} in {best.table}")


@rule(
    "plateau",
    "A larger parameter changes nothing",
    "Something else than the parameter ends the attack: check how far its images move, and its "
    "success test.",
)
def _plateau(tables: Tables) -> Iterator[Contradiction]:
    """Look for attacks that get no further however large one parameter is."""
    for name, row in _rows(tables):
        while max(n.rate for n in row) - min(n.rate for n in row) > FLAT + 1e-9:
            del row[0]
        first, last = row[0], row[-1]
        less = first.parameters[name]
        times = last.parameters[name] / less if less else math.inf
        if len(row) > 2 and times >= WIDE and last.defended > tables.guess and _bites(last, tables):
            why = f"and {first.rate:.3f} with {name} = {less:g} already"
            yield Contradiction(
                "warn", last, first, f"{last.sentence}, {why}: more of it changes nothing"
            )


def _rows(tables: Tables) -> Iterator[tuple[str, list[Number]]]:
    """Yield a parameter, and the white-box numbers that differ in nothing else, by its value."""
    rows: dict[tuple[str, Number], list[Number]] = {}
    for number in tables.numbers:
        for name in () if number.clean or number.transferred else number.parameters:
            if name == "steps" and number.bounded:
                continue  # that more steps find no more may mean that the attack has converged
            like = replace(number, rate=0.0, **{name: None})  # type: ignore[arg-type]
            rows.setdefault((name, like), []).append(number)
    for (name, _), row in rows.items():
        yield name, sorted(row, key=lambda number: number.parameters[name])


def _against(number: Number, witness: Number, why: str) -> Iterator[Contradiction]:
    """Yield a number that leaves the defender more than a witness that should not leave less."""
    severity = beats(witness.survival, number.survival)
    text = f"{number.sentence}, {why}"
    if severity == "warn":
        text += f"; chance may explain it (p = {chance(number, witness):.2f})"
    if severity != "pass":
        yield Contradiction(severity, number, witness, text)


def _strongest(numbers: Iterable[Number]) -> Number | None:
    return min(numbers, key=lambda n: n.defended, default=None)


def _brief(number: Number) -> str:
    return f"{number.words} {number.rate:.3f}"


def _is_weaker(one: Number, other: Number) -> bool:
    """Return whether an attack may do less than another one: a bound, or fewer steps."""
    if one.attack == other.attack or not one.lies_within(other):
        return False
    if one.bounded and not other.bounded:
        return True
    if one.steps is None or other.steps is None:
        return False
    return one.steps < other.steps and not (one.steps == 1 and other.bounded)


def _bites(number: Number, tables: Tables) -> bool:
    """Return whether an attack has any effect: one without is flat, and ties."""
    if not number.bounded:
        return True
    if number.targeted:
        return number.rate > FLAT
    clean = tables.clean(number)
    return clean is None or chance(number, clean) < LEVEL
