"""Which published numbers cannot be a true robust accuracy, and why: by nine rules.

The rules are the symptoms of masked gradients that a table shows by itself (Athalye, Carlini,
Wagner 2018, arXiv:1802.00420, section 3.1), with no classifier at hand. ``marks`` looks for them in
a run of one's own, where more than its numbers is known.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import rules
from .numbers import Number, Tables


@dataclass(frozen=True)
class Suspicion:
    """One reason why one number cannot be the truth about a classifier.

    Attributes:
        rule: One of `RULES`.
        severity: ``"fail"``; ``"warn"`` where chance may explain it, or where it proves nothing.
        number: The number that is too good for the defender.
        witness: The number that speaks against it; None where it speaks against itself.
        bound: What all other numbers leave to the defender, see ``Tables.bound``.
        sentence: Why.
    """

    rule: str
    severity: str
    number: Number
    witness: Number | None
    bound: float | None
    sentence: str

    @property
    def chance(self) -> float | None:
        """How often chance alone makes the two differ so much, None without a witness."""
        witness = self.witness
        return None if witness is None else rules.chance(self.number, witness)


@dataclass(frozen=True)
class Rule:
    """One kind of contradiction: what it is, what to do about it, and how it is found."""

    title: str
    advice: str
    find: Callable[[Tables], Iterator[rules.Found]]


def find(tables: Tables, rule: str | None = None) -> list[Suspicion]:
    """Return every suspicion against numbers that were published together, rule by rule.

    Args:
        tables: The numbers.
        rule: Only this one of `RULES`.

    Raises:
        ValueError: There is no such rule.

    >>> from fastrobust import suspicions
    >>> from fastrobust.number import Number, Tables
    >>> one_step = Number("mnist", "net", "FGSM", 0.33, eps=0.2, steps=1)
    >>> many = Number("mnist", "net", "PGD", 0.97, eps=0.2, steps=40)
    >>> (found,) = suspicions.find(Tables((one_step, many)))
    >>> found.rule, found.severity, found.bound
    ('one-step', 'fail', 0.33)
    >>> found.sentence
    'PGD (eps = 0.2, steps = 40) leaves 0.970, FGSM (eps = 0.2, steps = 1) 0.330 in a single step.'
    """
    if rule is not None and rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    return [
        Suspicion(name, severity, number, witness, tables.bound(number), f"{sentence}.")
        for name in (RULES if rule is None else (rule,))
        for severity, number, witness, sentence in RULES[name].find(tables)
    ]


RULES = {
    "one-step": Rule(
        "One step beats many",
        "Many steps within the same budget contain the single one: look at the loss they climb, "
        "at gradients that vanish, at the step size.",
        rules.one_step,
    ),
    "weaker": Rule(
        "A weaker attack beats a stronger one",
        "Take the worst case over all attacks, image by image, and find out what stops the "
        "stronger one: its gradients, its own test of success, its step size.",
        rules.weaker,
    ),
    "targeted": Rule(
        "A targeted attack beats an untargeted one",
        "Attack towards every class, away from the true label, and count an image as lost when "
        "one of them gets it.",
        rules.targeted,
    ),
    "transfer": Rule(
        "A transfer does as well as the white box",
        "The gradients of this classifier mislead: start from the transferred images, and attack "
        "its class scores.",
        rules.transfer,
    ),
    "budget": Rule(
        "More budget helps the defender",
        "What breaks an image at a smaller budget breaks it at a larger one: keep the best of "
        "both, and let the step size follow the budget.",
        rules.budget,
    ),
    "survivors": Rule(
        "An attack without bound leaves survivors",
        "Without bound nothing should survive: compare the attack's own test of success with the "
        "decision, and give it more steps.",
        rules.survivors,
    ),
    "above-clean": Rule(
        "More are right under attack than without",
        "Count an image as lost that is wrong without an attack, and move away from the true "
        "label.",
        rules.above_clean,
    ),
    "twice": Rule(
        "Two numbers for one measurement",
        "Ask the authors which one was measured so.",
        rules.twice,
    ),
    "plateau": Rule(
        "More budget changes nothing",
        "Something else than the budget ends the attack: look at how far its images move, and at "
        "its test of success.",
        rules.plateau,
    ),
}
