"""Numbers with contradictions, the worst first: as a table, as lines, as JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..utils.text import TextTable
from .contradictions import RULES, Contradiction
from .numbers import Number, Tables


@dataclass(frozen=True)
class Suspect:
    """A number and everything that contradicts it, failures first.

    Attributes:
        number: The number.
        reasons: Its contradictions.
        bound: What all other numbers leave to the defender, see ``Tables.bound``.
    """

    number: Number
    reasons: tuple[Contradiction, ...]
    bound: float | None

    @property
    def severity(self) -> str:
        """The worst severity of its reasons."""
        return self.reasons[0].severity

    @property
    def rules(self) -> str:
        """The names of the rules that it breaks."""
        return ", ".join(reason.rule for reason in self.reasons)

    @property
    def where(self) -> str:
        """Table, data set and classifier."""
        number = self.number
        return ", ".join(filter(None, (number.table, number.data, number.model)))

    @property
    def proven(self) -> str:
        """What the other numbers prove: ``accuracy <= 0.196``; empty where they prove nothing."""
        if self.bound is None:
            return ""
        return f"{self.number.metric} {'>=' if self.number.targeted else '<='} {self.bound:.3f}"

    @property
    def gap(self) -> float:
        """How far the number is from that."""
        return 0.0 if self.bound is None else abs(self.number.rate - self.bound)


def gather(contradictions: Iterable[Contradiction], tables: Tables) -> list[Suspect]:
    """Return every contradicted number once: failures first, the farthest from its bound first."""
    reasons: dict[int, list[Contradiction]] = {}
    for contradiction in contradictions:
        reasons.setdefault(id(contradiction.number), []).append(contradiction)
    suspects = []
    for group in reasons.values():
        number, group = group[0].number, sorted(group, key=lambda c: c.severity != "fail")
        suspects.append(Suspect(number, tuple(group), tables.bound(number)))
    return sorted(suspects, key=lambda suspect: (suspect.severity != "fail", -suspect.gap))


def summary(suspects: Sequence[Suspect], tables: Tables) -> str:
    """Return in a sentence how many numbers are contradicted."""
    counts = _counts(suspect.severity for suspect in suspects)
    images = sorted({number.images for number in tables.numbers})
    count = str(images[0]) if len(images) == 1 else f"{images[0]} to {images[-1]}"
    return (
        f"Numbers: {len(tables.numbers)}, each read as a share of {count} images. {counts['fail']} "
        f"cannot be a true robust accuracy (fail), {counts['warn']} may not be one (warn)."
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


def rule_lines(suspects: Iterable[Suspect]) -> Iterator[str]:
    """Yield a line per broken rule: how often, what it means, what to do about it."""
    reasons = [reason for suspect in suspects for reason in suspect.reasons]
    for name, rule in RULES.items():
        counts = _counts(reason.severity for reason in reasons if reason.rule == name)
        if any(counts.values()):
            text = f"{counts['fail']} fail, {counts['warn']} warn"
            yield f"{name} ({text}): {rule.title}. {rule.advice}"


def as_json(suspects: Sequence[Suspect], tables: Tables) -> dict[str, Any]:
    """Return everything as JSON-able data."""
    return {
        "numbers": len(tables.numbers),
        **_counts(suspect.severity for suspect in suspects),
        "suspects": [
            {
                **_facts(suspect.number),
                "severity": suspect.severity,
                "bound": suspect.bound,
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


def _counts(severities: Iterable[str]) -> dict[str, int]:
    levels = list(severities)
    return {level: levels.count(level) for level in ("fail", "warn")}


def _facts(number: Number) -> dict[str, Any]:
    """Return a number by the columns of a file, see ``reading``."""
    facts = asdict(number)
    facts[number.metric] = facts.pop("rate")
    if number.eps is None:
        del facts["norm"]
    return {name: value for name, value in facts.items() if value is not None}
