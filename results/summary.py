"""Writes ``numbers.md`` and the tables of ``README.md`` from the run folders.

    python results/summary.py

For each number of the paper the run with the most images counts. Blocks of ``README.md`` between
``<!-- NAME -->`` and ``<!-- /NAME -->`` are replaced, everything else stays.
"""

import json
import re
from collections import defaultdict

from cells import CELLS, HERE, NAMES, NEAR, RUNS, evaluations, lookup

from fastrobust.evaluation import files
from fastrobust.paper import printed as paper
from fastrobust.paper.columns import PGD_ON_SCORES
from fastrobust.train.classifiers import MODEL_NAMES

FULL = 10_000  # test images of each data set
# The attack on class scores that corresponds to an attack of the paper; the same name otherwise.
ON_CLASS_SCORES = {**dict.fromkeys(("FGSM", "BIM", "MIM"), PGD_ON_SCORES), "modified CWL2": "CWL2"}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: int = 1) -> str:
    """Return a Markdown table; columns from `right` on are right-aligned."""
    rule = ["---" if place < right else "---:" for place in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def clean() -> str:
    """Return Table 4: accuracies on the whole test sets."""
    rows = []
    for data_set, runs in RUNS.items():
        facts = next((p for run in runs if (p := HERE / run / "run.json").exists()), None)
        models = json.loads(facts.read_text(encoding="utf-8"))["models"] if facts else {}
        for model in MODEL_NAMES:
            printed = paper.lookup(4, data_set, model, paper.CLEAN)
            ours = models.get(model, {}).get("accuracy")
            epochs = models.get(model, {}).get("config", {}).get("epochs")
            found = ("-", "-", "-") if ours is None else (
                f"{ours:.4f}", f"{ours - printed:+.3f}", str(epochs)
            )  # fmt: skip
            rows.append((NAMES[data_set], model, f"{printed:.3f}", *found))
    return table(("data set", "classifier", "paper", "ours", "difference", "epochs"), rows, 2)


def numbers() -> str:
    """Return all of the paper's numbers, ours beside them."""
    lines = ["# The paper's numbers, one by one", "", NUMBERS_LEDE]
    for data_set in RUNS:
        rows = []
        for number, model, column, value, printed in paper.numbers(data_set):
            found = lookup(
                data_set, table=number, model=model, column=column, value=value, view="paper"
            )
            honest = lookup(
                data_set, table=number, model=model, value=value, view="class", source="",
                column=ON_CLASS_SCORES.get(column, column),
            )  # fmt: skip
            what = (
                "clean" if value is None else f"{column}, {paper.grid(number, column)[0]} {value:g}"
            )
            rows.append((
                str(number), model, what, f"{printed:.3f}",
                found.text if found else "not run",
                f"{found.rate - printed:+.3f}{' !' * found.surprising}" if found else "",
                str(found.images) if found else "",
                (found.marks if found else ""),
                honest.text if honest else "",
                left_within(data_set, model, column, value) if number == 3 else "",
            ))  # fmt: skip
        head = ("table", "classifier", "attack", "paper", "ours", "difference", "images", "marks",
                "class scores", "evaluate")  # fmt: skip
        lines += ["", f"## {NAMES[data_set]}", "", table(head, rows, 3)]
    return "\n".join(lines) + "\n"


SIGN = ("FGSM", "BIM", "MIM", "Madry")
NUMBERS_LEDE = (
    "Written by `python results/summary.py` from the run folders. Tables 3, 4 and 6: accuracy; 5 "
    "and 7: success rate of targeted attacks. Ours under the paper's protocol, with the Wilson 95% "
    f"interval; !: further than {NEAR:g} from the paper, which lies outside the interval. Marks as "
    "in the reports. Class scores: the attack on class scores with the same parameter (PGD for "
    "FGSM, BIM and MIM; CWL2 for the modified CWL2). evaluate, in Table 3: the robust accuracy by "
    "`fastrobust evaluate` within that eps, or within the one in brackets if the attack may go "
    "further."
)


def agreement() -> str:
    """Return how many of our numbers are near the paper's, by table and classifier."""
    rows = []
    for data_set in RUNS:
        by_place = defaultdict(list)
        for number, model, column, value, printed in paper.numbers(data_set):
            found = lookup(
                data_set, table=number, model=model, column=column, value=value, view="paper"
            )
            by_place[number, model].append((found, printed))
        for (number, model), pairs in sorted(by_place.items()):
            run = [(found, printed) for found, printed in pairs if found]
            if not run:
                rows.append((NAMES[data_set], str(number), model, f"0 of {len(pairs)}", "", "", ""))
                continue
            near = sum(not found.surprising for found, _ in run)
            gaps = [found.rate - printed for found, printed in run]
            rows.append((
                NAMES[data_set], str(number), model, f"{len(run)} of {len(pairs)}",
                f"{near}", f"{sum(gaps) / len(gaps):+.2f}", f"{max(gaps, key=abs):+.2f}",
            ))  # fmt: skip
    head = ("data set", "table", "classifier", "run", "near", "mean difference", "largest")
    return table(head, rows, 3)


def robust() -> str:
    """Return the accuracy under the paper's attacks, under attack on class scores, by evaluate."""
    rows = []
    for data_set in RUNS:
        by_eps = {(one.model, one.eps): one for one in evaluations(data_set)}
        for model in MODEL_NAMES:
            for eps in (0.1, 0.2):
                one = by_eps.get((model, eps))
                low, high = one.rate.interval if one else (0, 0)
                rows.append((
                    NAMES[data_set], model, f"{eps:g}", least(data_set, model, "paper", eps),
                    least(data_set, model, "class", eps),
                    f"{one.rate.value:.3f} [{low:.3f}, {high:.3f}]" if one else "-",
                    ", ".join(one.failed) or "none" if one else "-",
                ))  # fmt: skip
    head = ("data set", "classifier", "eps", "strongest sign attack of the paper",
            "PGD on class scores", "evaluate", "failed checks")  # fmt: skip
    return table(head, rows, 2)


def least(data_set: str, model: str, view: str, eps: float) -> str:
    """Return the lowest accuracy under a bounded attack of Table 3 within eps."""
    for run in RUNS[data_set]:
        found = [
            row.rate
            for row in CELLS[run]
            if (row.table, row.model, row.view, row.source) == (3, model, view, "")
            and row.column in (*SIGN, PGD_ON_SCORES)
            and row.value is not None
            and row.value <= eps
        ]
        if found:
            return f"{min(found):.3f}"
    return "-"


def left_within(data_set: str, model: str, column: str, value: float | None) -> str:
    """Return the robust accuracy by evaluate within the largest evaluated eps of an attack.

    Within a smaller eps the robust accuracy is higher, so it bounds that of the attack.
    """
    eps = value if column in SIGN and value is not None else float("inf")
    within = [one for one in evaluations(data_set) if one.model == model and one.eps <= eps]
    if not within:
        return ""
    best = max(within, key=lambda one: one.eps)
    at = "" if best.eps == eps else f" ({best.eps:g})"
    return f"{best.rate.value:.3f}{at}"


def lengths() -> str:
    """Return Table 8: codewords of other lengths."""
    rows = []
    for data_set, runs in RUNS.items():
        found = [row for run in runs for row in CELLS[run] if row.table == 8]
        for model in sorted(
            {row.model for row in found}, key=lambda m: int((m + ":128").split(":")[3])
        ):
            own = {}
            for row in found:
                if row.model == model:
                    own.setdefault((row.column, row.view), row)
            rows.append((
                NAMES[data_set], model,
                *(own[place].text if place in own else "-" for place in LENGTH_COLUMNS),
            ))  # fmt: skip
    head = ("data set", "classifier", *(f"{name}" for name, _ in LENGTH_COLUMNS))
    return table(head, rows, 2)


LENGTH_COLUMNS = (
    ("clean", "paper"), ("MIM", "paper"), ("BIM", "paper"), (PGD_ON_SCORES, "class"),
    ("modified CWL2", "paper"),
)  # fmt: skip


def cost() -> str:
    """Return seconds and evaluations of every run and table, and what 10,000 images would take."""
    rows, sums = [], defaultdict(float)
    for data_set, runs in RUNS.items():
        for run in runs:
            seen: set[tuple[str, ...]] = set()
            by_table = defaultdict(list)
            for row in CELLS[run]:
                if row.key not in seen:
                    by_table[row.table].append(row)
                seen.add(row.key)
            for number, found in sorted(by_table.items()):
                seconds = sum(row.seconds for row in found)
                naive, executed = (sum(getattr(r, n) for r in found) for n in ("naive", "executed"))
                images = found[0].images
                attacked = sum(row.images for row in found if row.naive > row.images)
                scaled = seconds * FULL / images
                sums["seconds"] += seconds
                rows.append((
                    NAMES[data_set], run, "Figure 1" if number == 1 else f"Table {number}",
                    str(len(found)), str(images), f"{seconds:,.0f}", f"{naive:,}", f"{executed:,}",
                    f"{attacked / seconds:,.1f}" if seconds else "", f"{scaled / 3600:,.1f} h",
                ))  # fmt: skip
            for one in files.read(HERE / run, MODEL_NAMES):
                sums["seconds"] += one.seconds
                rows.append((
                    NAMES[data_set], run, f"evaluate {one.model}, eps {one.eps:g}", "1",
                    str(one.rate.count), f"{one.seconds:,.0f}", "", f"{one.evaluations:,}",
                    f"{one.rate.count / one.seconds:,.1f}",
                    f"{one.seconds * FULL / one.rate.count / 3600:,.1f} h",
                ))  # fmt: skip
    rows.append(("in total", "", "", "", "", f"{sums['seconds']:,.0f}", "", "", "", ""))
    head = ("data set", "run", "part", "cells", "images", "seconds", "evaluations, naive",
            "executed", "images/s", "for 10,000 images")  # fmt: skip
    return table(head, rows, 3)


def conclusions() -> str:
    """Return the reports' sentences on the paper's conclusions."""
    found = []
    for data_set, runs in RUNS.items():
        path = HERE / runs[-1] / "tables.md"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [f"**{NAMES[data_set]}**", ""]
            found += [line for line in lines if re.match(r"- \d\.\d: ", line)] + [""]
    return "\n".join(found).strip()


BLOCKS = {
    "clean": clean,
    "agreement": agreement,
    "robust": robust,
    "lengths": lengths,
    "conclusions": conclusions,
    "cost": cost,
}


def main() -> None:
    """Write both files."""
    (HERE / "numbers.md").write_text(numbers(), encoding="utf-8")
    page = HERE / "README.md"
    text = page.read_text(encoding="utf-8")
    for name, make in BLOCKS.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"{page} must have a block {name}, got none")
        text = block.sub(lambda m, make=make: f"{m[1]}{make()}\n{m[2]}", text)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
