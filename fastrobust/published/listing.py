"""The numbers under suspicion, the worst first, one entry each: as a table, as lines, as JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..utils.text import TextTable
from .findings import RULES, Suspicion
from .numbers import Number, Tables
from .rules import FAIL, WARN


@dataclass(frozen=True)
class Suspect:
    """A number and everything that is said against it, failures first."""

    number: Number
    reasons: tuple[Suspicion, ...]

    @property
    def severity(self) -> str:
        """The worst of its reasons."""
        return self.reasons[0].severity

    @property
    def rules(self) -> str:
        """The names of the rules against it."""
        return ", ".join(reason.rule for reason in self.reasons)

    @property
    def where(self) -> str:
        """Table, data set and classifier."""
        number = self.number
        return ", ".join(filter(None, (number.table, number.data, number.model)))

    @property
    def proven(self) -> str:
        """What the other numbers prove: ``accuracy <= 0.196``; empty where they prove nothing."""
        bound, number = self.reasons[0].bound, self.number
        if bound is None:
            return ""
        return f"{number.metric} {'>=' if number.targeted else '<='} {bound:.3f}"

    @property
    def gap(self) -> float:
        """How far the number is from that."""
        bound = self.reasons[0].bound
        return 0.0 if bound is None else abs(self.number.rate - bound)


def gather(found: Iterable[Suspicion]) -> list[Suspect]:
    """Return every number under suspicion once: failures first, the farthest from truth first."""
    reasons: dict[int, list[Suspicion]] = {}
    for suspicion in found:
        reasons.setdefault(id(suspicion.number), []).append(suspicion)
    suspects = [
        Suspect(own[0].number, tuple(sorted(own, key=lambda reason: reason.severity != FAIL)))
        for own in reasons.values()
    ]
    return sorted(suspects, key=lambda suspect: (suspect.severity != FAIL, -suspect.gap))


def summary(suspects: Sequence[Suspect], tables: Tables) -> str:
    """Say in a sentence how many numbers are under suspicion."""
    fails, warns = (sum(s.severity == level for s in suspects) for level in (FAIL, WARN))
    images = sorted({number.images for number in tables.numbers})
    count = str(images[0]) if len(images) == 1 else f"{images[0]} to {images[-1]}"
    return (
        f"Numbers: {len(tables.numbers)}, each read as a share of {count} images. {fails} cannot "
        f"be a true robust accuracy (fail), {warns} may not be one (warn)."
    )


def as_table(suspects: Iterable[Suspect]) -> TextTable:
    """Return a row per number."""
    rows = tuple(
        (s.severity, s.where, s.reasons[0].sentence, s.proven or "-", s.rules) for s in suspects
    )
    head = ("", "where", "what is wrong", "the others prove", "rules")
    return TextTable("Numbers under suspicion", "", head, rows)


def as_lines(suspects: Iterable[Suspect]) -> Iterator[str]:
    """Yield a line per number."""
    for s in suspects:
        proven = f" The others prove {s.proven}." if s.proven else ""
        yield f"{s.severity}  {s.where}: {s.reasons[0].sentence}{proven} ({s.rules})"


def rules(suspects: Iterable[Suspect]) -> Iterator[str]:
    """Yield a line per rule that found something: how much, what it means, what to do about it."""
    reasons = [reason for suspect in suspects for reason in suspect.reasons]
    for name, rule in RULES.items():
        own = [reason.severity for reason in reasons if reason.rule == name]
        if own:
            counts = f"{own.count(FAIL)} fail, {own.count(WARN)} warn"
            yield f"{name} ({counts}): {rule.title}. {rule.advice}"


def as_json(suspects: Sequence[Suspect], tables: Tables) -> dict[str, Any]:
    """Return everything as JSON-able data."""
    return {
        "numbers": len(tables.numbers),
        **{level: sum(s.severity == level for s in suspects) for level in (FAIL, WARN)},
        "suspects": [
            {
                **_facts(suspect.number),
                "severity": suspect.severity,
                "bound": suspect.reasons[0].bound,
                "reasons": [
                    {
                        "rule": reason.rule,
                        "severity": reason.severity,
                        "sentence": reason.sentence,
                        "advice": RULES[reason.rule].advice,
                        "witness": reason.witness and _facts(reason.witness),
                        "chance": reason.chance,
                    }
                    for reason in suspect.reasons
                ],
            }
            for suspect in suspects
        ],
    }


def _facts(number: Number) -> dict[str, Any]:
    """Return a number by the columns of a file, see ``published``."""
    facts = asdict(number)
    facts[number.metric] = facts.pop("rate")
    if number.eps is None:
        del facts["norm"]
    return {name: value for name, value in facts.items() if value is not None}
