"""Contradictions between published numbers: one function a rule, from a table to what it finds.

The true robust accuracy within a budget is the least that any attack within it can leave. So where
two numbers contradict each other, the one that is better for the defender is wrong: its attack did
not find what another one found. A number that leaves the defender no more than a guess is right on
claims nothing, and nothing is said against it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from statistics import NormalDist

from ..utils import stats
from .numbers import Number, Tables

FAIL, WARN = "fail", "warn"
LEVEL = 0.01  # chance must make a difference less often than that for it to fail a number
DOUBT = 0.5  # and less often than not for a warning
Z_LEVEL = NormalDist().inv_cdf(1 - LEVEL / 2)
ROUNDING = 0.001  # equal rates can be printed so far apart, with three decimals
FLAT, WIDE = 0.02, 4.0  # a plateau: so little changes while a parameter grows so many times

Found = tuple[str, Number, Number | None, str]  # severity, number, witness, sentence


def one_step(tables: Tables) -> Iterator[Found]:
    """Look for a single step that does better than many within no smaller budget."""
    for number in tables.white_box():
        if number.bounded and number.steps != 1:
            single = (n for n in tables.rivals(number) if n.steps == 1 and n.lies_within(number))
            if best := _strongest(single):
                yield from _against(number, best, f"{_brief(best)} in a single step")


def weaker(tables: Tables) -> Iterator[Found]:
    """Look for an attack that does better than another with more at hand: no bound, more steps."""
    for number in tables.white_box():
        if best := _strongest(n for n in tables.rivals(number) if _is_weaker(n, number)):
            bound = best.bounded and not number.bounded
            why = f"{_brief(best)} {'though it has a bound' if bound else 'in fewer steps'}"
            yield from _against(number, best, why)


def targeted(tables: Tables) -> Iterator[Found]:
    """Look for targeted attacks that make more images wrong, though they ask for more.

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


def transfer(tables: Tables) -> Iterator[Found]:
    """Compare with the same attack made on another classifier, which knows less of this one."""
    for number in tables.white_box():
        setting = "targeted transfer" if number.targeted else "transfer"
        copies = (n for n in tables.beside(number) if n.setting == setting and n.is_like(number))
        if best := _strongest(copies):
            yield from _against(number, best, _brief(best))
            if chance(number, best) >= DOUBT and _bites(number, tables):
                why = f"{_brief(best)}: to know the classifier helps little"
                yield WARN, number, best, f"{number.sentence}, {why}"


def budget(tables: Tables) -> Iterator[Found]:
    """Compare with the same attack where it has less of some parameter and more of none."""
    for number in tables.attacks():
        smaller = (n for n in tables.rivals(number) if n.has_no_more(number))
        if best := _strongest(n for n in smaller if not n.is_like(number)):
            own = number.parameters
            less = [f"{name} = {v:g}" for name, v in best.parameters.items() if v < own[name]]
            why = f"and {best.rate:.3f} with {' and '.join(less)} already"
            yield from _against(number, best, why)


def survivors(tables: Tables) -> Iterator[Found]:
    """Look for images that an attack without bound spares, more than a guess is right on."""
    for number in tables.white_box():
        low, _ = stats.wilson(round(number.defended * number.images), number.images, Z_LEVEL)
        if not number.bounded and low > tables.guess:
            truth = (
                "every image can become any other"
                if number.targeted
                else f"a guess is right on {tables.guess:.3f}"
            )
            yield FAIL, number, None, f"{number.sentence}, though nothing bounds it and {truth}"


def above_clean(tables: Tables) -> Iterator[Found]:
    """Compare with the accuracy without an attack."""
    for number in tables.attacks():
        clean = tables.clean(number)
        if clean is not None and not number.targeted:
            why = f"more than the {clean.rate:.3f} without an attack"
            yield from _against(number, clean, why)


def twice(tables: Tables) -> Iterator[Found]:
    """Compare with the same measurement in another table."""
    for number in tables.attacks():
        if best := _strongest(n for n in tables.rivals(number) if n.is_like(number)):
            yield from _against(number, best, f"and {best.rate:.3f} in {best.table}")


def plateau(tables: Tables) -> Iterator[Found]:
    """Look for attacks that get no further, however much more of one parameter they have."""
    for name, row in _rows(tables):
        while max(n.rate for n in row) - min(n.rate for n in row) > FLAT + 1e-9:
            del row[0]
        first, last = row[0], row[-1]
        less = first.parameters[name]
        times = last.parameters[name] / less if less else math.inf
        if len(row) > 2 and times >= WIDE and last.defended > tables.guess and _bites(last, tables):
            why = f"and {first.rate:.3f} with {name} = {less:g} already"
            yield WARN, last, first, f"{last.sentence}, {why}: more of it changes nothing"


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


def _against(number: Number, witness: Number, why: str) -> Iterator[Found]:
    """Yield a number that leaves the defender more than a witness that should not leave less."""
    if number.defended - witness.defended <= ROUNDING + 1e-9:
        return
    by_chance = chance(number, witness)
    text = f"{number.sentence}, {why}"
    if by_chance < LEVEL:
        yield FAIL, number, witness, text
    elif by_chance < DOUBT:
        yield WARN, number, witness, f"{text}; chance may do that (p = {by_chance:.2f})"


def _strongest(numbers: Iterable[Number]) -> Number | None:
    return min(numbers, key=lambda n: n.defended, default=None)


def chance(one: Number, other: Number) -> float:
    """Return how often chance alone makes two numbers differ so much, see ``stats.difference``."""
    return stats.difference(one.defended, other.defended, (one.images, other.images))


def _brief(number: Number) -> str:
    return f"{number.words} {number.rate:.3f}"


def _is_weaker(one: Number, other: Number) -> bool:
    """Say whether an attack has less at hand than another one: a bound, or fewer steps."""
    if one.attack == other.attack or not one.lies_within(other):
        return False
    if one.bounded and not other.bounded:
        return True
    if one.steps is None or other.steps is None:
        return False
    return one.steps < other.steps and not (one.steps == 1 and other.bounded)


def _bites(number: Number, tables: Tables) -> bool:
    """Say whether an attack does anything: one that does nothing yet is flat, and ties."""
    if not number.bounded:
        return True
    if number.targeted:
        return number.rate > FLAT
    clean = tables.clean(number)
    return clean is None or chance(number, clean) < LEVEL
