"""One contradiction between published numbers, and the kinds of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..evaluation import comparisons
from .numbers import Number, Tables


@dataclass(frozen=True)
class Contradiction:
    """One reason why a number cannot be the true robust accuracy of a classifier.

    Attributes:
        severity: ``"fail"``; ``"warn"`` where chance may explain it, or where it proves nothing.
        number: The number that is too good for the defender.
        witness: The number that contradicts it; None where it contradicts itself.
        sentence: Why.
        rule: One of `RULES`.
    """

    severity: str
    number: Number
    witness: Number | None
    sentence: str
    rule: str = ""

    @property
    def chance(self) -> float | None:
        """The p-value of the difference, None without a witness."""
        return None if self.witness is None else chance(self.number, self.witness)


@dataclass(frozen=True)
class PublishedRule:
    """One kind of contradiction: what it is, what to do about it, and how it is found."""

    title: str
    advice: str
    find_all: Callable[[Tables], Iterator[Contradiction]]


RULES: dict[str, PublishedRule] = {}


Finder = Callable[[Tables], Iterator[Contradiction]]


def rule(name: str, title: str, advice: str) -> Callable[[Finder], Finder]:
    """Add a function to `RULES`."""

    def register(find_all: Finder) -> Finder:
        RULES[name] = PublishedRule(title, advice, find_all)
        return find_all

    return register


def chance(number: Number, witness: Number) -> float:
    """Return the p-value of the difference of two numbers, see ``stats.difference``."""
    return comparisons.chance(witness.survival, number.survival)
