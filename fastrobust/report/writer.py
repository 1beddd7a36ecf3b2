"""Writes what a run folder holds as a page, as Markdown and as CSV."""

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..paper import printed
from ..utils import atomic
from ..utils.text import TextTable
from . import (
    curves,
    detail_tables,
    flags,
    galleries,
    norm_figure,
    norm_tables,
    norms,
    pages,
    rate_tables,
    results,
    summary,
)
from .claims import claims
from .claims import norms as norm_claims
from .claims.comparisons import Conclusion
from .flags import Marks
from .norm_tables import Reports
from .results import Result, Run
from .svg import on_paper


@dataclass(frozen=True)
class ReportFiles:
    """Where the files of a report are, and the tables for a terminal."""

    page: Path
    markdown: Path
    csv: Path
    pictures: Path
    tables: tuple[TextTable, ...]


def write(out_dir: str | os.PathLike[str]) -> ReportFiles:
    """Write ``report.html``, ``tables.md`` and ``tables.csv`` from a run folder, and into it.

    The curves of the page are also in ``pictures/``, one file each. Only the folder is read,
    finished or not; what is not measured is left empty.

    Args:
        out_dir: The run folder.

    Raises:
        StoreError: The folder holds no run, or one of its files is damaged or foreign.
        CheckpointError: A classifier in it is.
    """
    run = results.read(out_dir)
    marks = flags.find_flags(run)
    reports = norms.measure_norms(run)
    root = run.folder.root
    tables = tuple(table.as_list() for table in rate_tables.rate_tables(run, marks))
    files = ReportFiles(
        root / "report.html", root / "tables.md", root / "tables.csv", root / "pictures", tables
    )
    pictures = curves.all_curves(run)
    _write(files.page, page(run, marks, reports, pictures))
    _write(files.markdown, markdown(run, marks, reports))
    _write(files.csv, comma_separated(run, marks))
    if figure_4 := norm_figure.draw(reports):
        pictures["norms"] = figure_4
    for name, svg in pictures.items():
        _write(files.pictures / f"{name}.svg", on_paper(svg))
    return files


def page(run: Run, marks: Marks, reports: Reports, pictures: Mapping[str, str]) -> str:
    """Return the self-contained HTML page of a run with these curves, SVG by name."""
    return pages.render(
        "report.html.j2",
        run=run,
        marked=marks,
        findings=summary.sentences(run, marks),
        legend=flags.LEGEND,
        paper_source=printed.source() if run.plan.known_as in printed.DATA_SETS else None,
        rate_tables=rate_tables.rate_tables(run, marks),
        conclusions=_conclusions(run, reports),
        curves=list(pictures.values()),
        galleries=galleries.galleries(run),
        norms=norm_figure.draw(reports),
        norms_caveat=norm_claims.CAVEAT,
        norm_summary=norm_tables.summary(reports) if reports else [],
        norm_table=norm_tables.convolution_table(reports) if reports else None,
        attack_tables=detail_tables.attack_tables(run),
        distances=detail_tables.distances(run),
        cost_sums=detail_tables.cost_sums(run),
        costs=detail_tables.costs(run),
    )


def markdown(run: Run, marks: Marks, reports: Reports) -> str:
    """Return every table of a run in Markdown."""
    plan = run.plan
    lines = [
        f"# {plan.data_set}, preset {plan.preset}, {run.facts['data']['images']} images",
        "",
        "Rates with Wilson 95% intervals.",
    ]
    if plan.precision != "fp32":
        lines += ["", f"Attacks ran in {plan.precision}; success was verified in fp32."]
    if conclusions := _conclusions(run, reports):
        lines += ["", "## The paper's conclusions", ""]
        lines += [f"- {one.section}: {one.sentence}" for one in conclusions]
    rates = [text for table in rate_tables.rate_tables(run, marks) for text in table.as_printed()]
    tables = [
        *rates,
        *_norm_tables(reports),
        detail_tables.legend(),
        *detail_tables.attack_tables(run),
        detail_tables.distances(run),
        detail_tables.cost_sums(run),
        detail_tables.costs(run),
    ]
    for table in tables:
        lines += ["", f"## {table.title}", ""]
        lines += [table.caption, ""] if table.caption else []
        lines.append("| " + " | ".join(table.head) + " |")
        lines.append("|" + " --- |" * len(table.head))
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    if marks:
        lines += ["", "## Marked numbers", ""]
        for result, several in marks.items():
            cell = result.cell
            where = f"Table {cell.table}, {cell.words}, {cell.line}"
            lines += [f"- {mark.sign} {where}: {mark.sentence}" for mark in several]
    return "\n".join(lines) + "\n"


def _conclusions(run: Run, reports: Reports) -> list[Conclusion]:
    of_norms = norm_claims.conclusion(reports)
    return [*claims.of_run(run), *([of_norms] if of_norms else [])]


def _norm_tables(reports: Reports) -> list[TextTable]:
    if not reports:
        return []
    return [*norm_tables.summary(reports), norm_tables.convolution_table(reports)]


def comma_separated(run: Run, marks: Marks) -> str:
    """Return a line per measured cell as CSV."""
    buffer = io.StringIO()
    lines = [_csv_line(run, result, marks) for result in run.results]
    writer = csv.DictWriter(buffer, lines[0] if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _csv_line(run: Run, result: Result, marks: Marks) -> dict[str, object]:
    cell, facts, rate = result.cell, result.facts, result.rate
    low, high = rate.interval
    return {
        "table": cell.table,
        "data_set": run.plan.data_set,
        "model": cell.model,
        "column": cell.column,
        "attack": cell.attack,
        "targeted": cell.targeted,
        "view": cell.view,
        "labels": cell.labels,
        "source": cell.source,
        "probe": cell.probe,
        "parameter": cell.parameter,
        "value": cell.value,
        "metric": "success_rate" if cell.targeted else "accuracy",
        "rate": round(rate.value, 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "images": rate.count,
        "paper": result.paper,
        "difference": None if result.paper is None else round(rate.value - result.paper, 6),
        "claims": round(result.claims.value, 6),
        "false_claims": round(result.false_claims.value, 6),
        "disagreements": result.disagreements,
        "targets_met": result.met,
        "marks": " ".join(mark.sign for mark in marks.get(result, ())),
        "median_l2": result.median("l2"),
        "median_linf": result.median("linf"),
        "first_success": result.first_success,
        # Empty where an older folder does not have it.
        **{name: facts.get(name) for name in ("stalled", "invalid", "naive", "executed")},
        "seconds": round(facts.get("seconds", 0.0), 3),
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    atomic.replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
