"""Rows of figures on their way to JSON and Markdown, and the time that there is for them."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


class Deadline:
    """Seconds of a part: `left()` of them are left.

    Args:
        seconds: from now.
        clock: tells the time; another one in tests.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.begun = clock()

    def left(self) -> float:
        """Seconds until the end, 0 after it."""
        return max(0.0, self.begun + self.seconds - self.clock())

    def share(self, rows: int) -> float:
        """Seconds for the next of so many rows that are still to come."""
        return self.left() / max(1, rows)


def attempt(key: Row, measure: Callable[[], Row]) -> Row:
    """Return a row: its key and what was measured, or why nothing was.

    A card that is too small for one row, or a compiler that fails, must not end the others.
    """
    try:
        return {**key, **measure()}
    except torch.cuda.OutOfMemoryError as error:
        return {**key, "failed": f"out of memory: {said(error)}"}
    except Exception as error:
        # After some errors nothing on the card works any more: every row then says so.
        return {**key, "failed": f"{type(error).__name__}: {said(error)}"}


def said(error: BaseException) -> str:
    """First line of an error, short enough for a table."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else "no message"


def write(out: Path, name: str, facts: Row, parts: dict[str, list[Row]]) -> tuple[Path, Path]:
    """Write all that is known so far to NAME.json and NAME.md; return both paths.

    Parts that this run has not measured are kept from an earlier run; each says its own machine.
    """
    out.mkdir(parents=True, exist_ok=True)
    data, page = out / f"{name}.json", out / f"{name}.md"
    known = json.loads(data.read_text()) if data.exists() else {}
    known |= {part: {"machine": facts, "rows": rows} for part, rows in parts.items()}
    data.write_text(json.dumps(known, indent=1) + "\n")
    page.write_text(markdown(known))
    return data, page


def markdown(known: dict[str, Any]) -> str:
    """Lay all parts out: what each was measured on, then a table for each kind of row."""
    lines = []
    for part, found in known.items():
        lines += [f"# {part}", "", *machine(found["machine"])]
        for kind in dict.fromkeys(row.get("table", "") for row in found["rows"]):
            rows = [row for row in found["rows"] if row.get("table", "") == kind]
            lines += ["", f"## {kind}" if kind else "", "", *table(rows)]
        lines.append("")
    return "\n".join(lines)


def machine(facts: Row) -> list[str]:
    """Say what the figures were measured on."""
    smi = facts.get("nvidia_smi", {})
    clocks = ", ".join(f"{name} {value}" for name, value in smi.items())
    return [
        f"{facts['card']} (sm {facts['capability']}), torch {facts['torch']}, "
        f"nvcc {facts['nvcc']}, Python {facts['python']}.",
        f"As found: {clocks}.",
    ]


def table(rows: list[Row]) -> list[str]:
    """Lines of a Markdown table whose columns are all names of the rows, in their order."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "table"))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(cell(name, row.get(name)) for name in names) + " |")
    return lines


def cell(name: str, value: Any) -> str:
    """Write one figure; a list of three is a ratio, its median and both quartiles."""
    if value is None:
        return ""
    if isinstance(value, list | tuple) and len(value) == 3:
        middle, low, high = value
        return f"{middle:.2f} ({low:.2f}-{high:.2f})"
    if isinstance(value, float):
        if name.endswith("spread") or name == "of floor":
            return f"{value:.0%}"
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def timed_out(keys: Iterable[Row]) -> list[Row]:
    """Rows of what the time did not reach."""
    return [{**key, "failed": "not measured: the time of this part is over"} for key in keys]
