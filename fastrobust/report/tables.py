"""Tables of rates: classifiers under attacks.

A table of rates becomes text, laid out as in the paper for Markdown, or with a line per parameter
value for a terminal. The page draws it from the data classes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..utils.stats import Rate
from ..utils.text import TextTable

VIEW_NAMES = {"paper": "paper's protocol", "class": "class scores"}
COLUMNS_PER_BLOCK = 12  # columns side by side, as in the paper


@dataclass(frozen=True)
class Mark:
    """One reason to doubt one result: the sign in the table, and a sentence."""

    sign: str
    sentence: str


@dataclass(frozen=True)
class Entry:
    """One number of a table with its notes.

    Attributes:
        rate: The number.
        defended: Share of the images that the attack did not break.
        paper: The number that the paper prints, None if it prints none.
        marks: Reasons to doubt it.
        notes: Short notes below it, such as what the attack claims.
    """

    rate: Rate
    defended: float
    paper: float | None = None
    marks: tuple[Mark, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.paper is None else self.rate.value - self.paper

    @property
    def text(self) -> str:
        """Rate, interval, the paper's value and the difference, notes, signs of the marks."""
        low, high = self.rate.interval
        words = [f"{self.rate.value:.3f} [{low:.3f}, {high:.3f}]"]
        if self.paper is not None:
            words.append(f"(paper {self.paper:.3f}, {self.difference:+.3f})")
        if self.notes:
            words.append(f"({', '.join(self.notes)})")
        return " ".join(words + [mark.sign for mark in self.marks])


@dataclass(frozen=True)
class Group:
    """The columns of one attack, one value of its parameter each.

    Attributes:
        name: Name of the attack.
        view: The protocol of the attack, one of `VIEW_NAMES`; None if there is only one.
        heads: Heading of each column.
        entries: For every classifier, an entry per column, None where nothing is measured yet.
    """

    name: str
    view: str | None
    heads: tuple[str, ...]
    entries: Mapping[str, tuple[Entry | None, ...]]

    @property
    def title(self) -> str:
        """Name, and the protocol where it is not the paper's."""
        return f"{self.name} ({self.view})" if self.view == VIEW_NAMES["class"] else self.name


@dataclass(frozen=True)
class RateTable:
    """A table of rates: one of the paper's with our numbers in it, or one like them.

    Attributes:
        title: Its title.
        caption: What the numbers are.
        models: Names of its rows: classifiers, of transfers ``source → classifier``.
        groups: Its columns.
        turned: Whether classifiers are the columns and attacks the rows.
    """

    title: str
    caption: str
    models: tuple[str, ...]
    groups: tuple[Group, ...]
    turned: bool = False

    @property
    def anchor(self) -> str:
        """A name for links: ``table-3``, ``worst-case``."""
        return "-".join(self.title.lower().replace(".", "").split()[:2])

    @property
    def blocks(self) -> tuple[tuple[Group, ...], ...]:
        """The groups, as many at a time as fit side by side."""
        blocks: list[list[Group]] = []
        for group in self.groups:
            if blocks and sum(len(g.heads) for g in (*blocks[-1], group)) <= COLUMNS_PER_BLOCK:
                blocks[-1].append(group)
            else:
                blocks.append([group])
        return tuple(map(tuple, blocks))

    def as_printed(self) -> Iterator[TextTable]:
        """Yield the blocks as the paper lays them out: a row per classifier, unless turned."""
        if self.turned:
            yield self.as_list()
            return
        for block in self.blocks:
            heads = (f"{group.title}, {head}" for group in block for head in group.heads)
            rows = []
            for model in self.models:
                entries = (entry for group in block for entry in group.entries[model])
                rows.append((model, *map(_text, entries)))
            yield TextTable(self.title, self.caption, ("model", *heads), tuple(rows))

    def as_list(self) -> TextTable:
        """Return the table for a terminal: a column per classifier."""
        rows = []
        for group in self.groups:
            for column, head in enumerate(group.heads):
                entries = (group.entries[model][column] for model in self.models)
                rows.append(("" if column else group.title, head, *map(_text, entries)))
        return TextTable(self.title, self.caption, ("attack", "", *self.models), tuple(rows))


def _text(entry: Entry | None) -> str:
    return entry.text if entry else "-"
