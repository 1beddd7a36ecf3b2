"""Writes what a run folder holds as a page, as Markdown and as CSV."""

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ..paper import printed
from ..runs.plan import Cell
from ..utils import atomic
from ..utils.text import TextTable
from . import curves, detail_tables, flags, galleries, norm_tables, rate_tables, results, summary
from . import norms as spectra
from .claims import claims
from .flags import Marks
from .norm_tables import Reports
from .results import Result, Run
from .svg import on_paper


@dataclass(frozen=True)
class Written:
    """What `write` made: where the files are, and the tables for a terminal."""

    page: Path
    markdown: Path
    csv: Path
    pictures: Path
    tables: tuple[TextTable, ...]


def write(out_dir: str | os.PathLike[str]) -> Written:
    """Write ``report.html``, ``tables.md`` and ``tables.csv`` from a run folder, and into it.

    The curves of the page stand by themselves, too, in ``pictures/``. Only the folder is read,
    finished or not; gaps are shown as gaps.

    Args:
        out_dir: The run folder.

    Raises:
        StoreError: The folder holds no run, or one of its files is damaged or foreign.
        CheckpointError: A classifier in it is.
    """
    run = results.read(out_dir)
    marked = flags.find(run)
    norms = spectra.of_run(run)
    root = run.folder.root
    lists = tuple(table.as_list() for table in rate_tables.rate_tables(run, marked))
    written = Written(
        root / "report.html", root / "tables.md", root / "tables.csv", root / "pictures", lists
    )
    pictures = curves.all_curves(run)
    _write(written.page, page(run, marked, norms, pictures))
    _write(written.markdown, markdown(run, marked, norms))
    _write(written.csv, comma_separated(run, marked))
    if figure_4 := spectra.picture(norms):
        pictures["norms"] = figure_4
    for name, svg in pictures.items():
        _write(written.pictures / f"{name}.svg", on_paper(svg))
    return written


def page(run: Run, marked: Marks, norms: Reports, pictures: Mapping[str, str]) -> str:
    """Return the self-contained HTML page of a run with these curves, SVG by name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fastrobust.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        run=run,
        marked=marked,
        findings=summary.sentences(run, marked),
        legend=flags.LEGEND,
        paper_source=printed.source() if run.plan.known_as in printed.DATA_SETS else None,
        rate_tables=rate_tables.rate_tables(run, marked),
        conclusions=_conclusions(run, norms),
        curves=list(pictures.values()),
        galleries=galleries.galleries(run),
        norms=spectra.picture(norms),
        norms_caveat=spectra.CAVEAT,
        norm_summary=norm_tables.summary(norms) if norms else [],
        norm_table=norm_tables.convolution_table(norms) if norms else None,
        attack_tables=detail_tables.attack_tables(run),
        distances=detail_tables.distances(run),
        cost_sums=detail_tables.cost_sums(run),
        costs=detail_tables.costs(run),
    )


def markdown(run: Run, marked: Marks, norms: Reports) -> str:
    """Return every table of a run in Markdown."""
    plan = run.plan
    lines = [
        f"# {plan.data_set}, preset {plan.preset}, {run.facts['data']['images']} images",
        "",
        "Rates with Wilson 95% intervals.",
    ]
    if plan.precision != "fp32":
        lines += ["", f"Attacks searched in {plan.precision}; decisions are float32's."]
    if drawn := _conclusions(run, norms):
        lines += ["", "## The paper's conclusions", ""]
        lines += [f"- {one.section}: {one.sentence}" for one in drawn]
    rates = [text for table in rate_tables.rate_tables(run, marked) for text in table.as_printed()]
    words = (
        detail_tables.legend(),
        *detail_tables.attack_tables(run),
        detail_tables.distances(run),
    )
    for table in (
        *rates,
        *_norm_tables(norms),
        *words,
        detail_tables.cost_sums(run),
        detail_tables.costs(run),
    ):
        lines += ["", f"## {table.title}", ""]
        lines += [table.caption, ""] if table.caption else []
        lines.append("| " + " | ".join(table.head) + " |")
        lines.append("|" + " --- |" * len(table.head))
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    if marked:
        lines += ["", "## What the marks say", ""]
        for result, found in marked.items():
            lines += [f"- {mark.sign} {_place(result.cell)}: {mark.sentence}" for mark in found]
    return "\n".join(lines) + "\n"


def _conclusions(run: Run, norms: Reports) -> list[claims.Conclusion]:
    found = spectra.conclusion(norms)
    return [*claims.of(run), found] if found else claims.of(run)


def _norm_tables(norms: Reports) -> list[TextTable]:
    return [*norm_tables.summary(norms), norm_tables.convolution_table(norms)] if norms else []


def comma_separated(run: Run, marked: Marks) -> str:
    """Return a line per measured cell as CSV."""
    buffer = io.StringIO()
    lines = [_csv_line(run, result, marked) for result in run.results]
    writer = csv.DictWriter(buffer, lines[0] if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _csv_line(run: Run, result: Result, marked: Marks) -> dict[str, object]:
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
        "marks": " ".join(mark.sign for mark in marked.get(result, ())),
        "median_l2": result.median("l2"),
        "median_linf": result.median("linf"),
        "first_success": result.first_success,
        # What an older folder does not say stays empty.
        **{name: facts.get(name) for name in ("stalled", "invalid", "naive", "executed")},
        "seconds": round(facts.get("seconds", 0.0), 3),
    }


def _place(cell: Cell) -> str:
    return f"Table {cell.table}, {cell.words}, {cell.line}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    atomic.replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
