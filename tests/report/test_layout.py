import csv
from dataclasses import replace

import numpy as np
from fake_run import COUNT, made_up, targeted, untargeted

from fastrobust.report import curves, detail_tables, galleries, rate_tables, results, writer
from fastrobust.report.results import robust_at, smallest_breaks
from fastrobust.runs.plan import Cell

CE, CODED = "O:SOFTMAX:CE", "R:TANH:MSE"
FOOLED = {"claimed": np.arange(COUNT) < 98}


def cwl2(c, table=3, view="units", model=CODED, **changes):
    attack = f"CWL2(initial_const={c}, view={view!r})"
    names = {"units": "paper", "class": "class"}
    cell = Cell(table, "CWL2", "initial_const", c, model, attack, view=names[view])
    return replace(cell, **changes)


def table_of(root, title):
    tables = rate_tables.rate_tables(results.read(root), {})
    return next(table for table in tables if table.title.startswith(title))


def test_ours_the_papers_and_the_difference_stand_side_by_side(tmp_path):
    root = made_up(
        tmp_path, "mnist", [(cwl2(0.01), 30, FOOLED), (cwl2(0.01, view="class"), 99, {})]
    )
    text = writer.write(root).markdown.read_text()
    assert "0.700 [0.604, 0.781] (paper 0.995, -0.295) (claims 0.98, false 0.68)" in text
    assert "| CWL2, c 0.01 | CWL2 (class scores), c 0.01 |" in text
    ours, honest = csv.DictReader((root / "tables.csv").read_text().splitlines())
    assert (ours["paper"], ours["difference"]) == ("0.995", "-0.295")
    assert (ours["claims"], ours["false_claims"]) == ("0.98", "0.68")
    assert honest["paper"] == ""  # the paper did not attack class scores
    page = (root / "report.html").read_text()
    assert "paper .995" in page and "−.295" in page and "claims .98" in page


def test_a_transfer_names_its_source_and_its_twin(tmp_path):
    cells = [
        (cwl2(0.01), 30, {}),
        (cwl2(0.01, table=6, source=CE), 20, {}),
        (cwl2(0.1, table=6, source=CE), 20, {}),  # its twin is not measured
    ]
    root = made_up(tmp_path, "mnist", cells)
    table = table_of(root, "Table 6")
    assert table.models == ("O:SOFTMAX:CE → R:TANH:MSE",)
    first, second = table.groups[0].entries[table.models[0]]
    assert (first.notes, second.notes) == (("white box 0.700",), ())
    assert first.paper == 0.996
    assert "O:SOFTMAX:CE → R:TANH:MSE" in writer.write(root).page.read_text()


def test_the_table_of_lengths_mixes_both_kinds_of_attack(tmp_path):
    names = (f"{CODED}:64", CODED)
    cells = [
        (cell, 30, {})
        for name in names
        for cell in (
            Cell(8, "clean", None, None, name, None),
            untargeted("MIM", 0.1, model=name, table=8),
            replace(targeted("BIM", 0.1, model=name), table=8),
        )
    ]
    table = table_of(made_up(tmp_path, "mnist", cells), "Table 8")
    assert table.models == names
    assert [group.name for group in table.groups] == ["clean", "MIM", "BIM, targeted"]
    assert len(table.blocks) == 1
    entries = [group.entries[CODED][0] for group in table.groups]
    assert [entry.rate.value for entry in entries] == [0.7, 0.7, 0.3]
    # Neither the worst case nor the sentences at the top speak of an ablation.
    assert rate_tables._worst_case(results.read(tmp_path)) is None


def defences(folder):
    """Write a run of two classifiers in Table 3, and a third one in Table 9 alone."""
    cells = []
    for model, by_bim, by_pgd in ((CE, 90, 95), (CODED, 20, 80), ("O:LINEAR:MSE", 40, 50)):
        honest = {"column": "PGD", "attack": "PGD(eps=0.1)", "view": "class"}
        found = [
            (Cell(9, "clean", None, None, model, None), 0, {}),
            (untargeted("BIM", 0.1, model=model, table=9), by_bim, {}),
            (untargeted("BIM", 0.2, model=model, table=9), by_bim + 5, {}),
            (replace(untargeted("PGD", 0.1, model=model, table=9), **honest), by_pgd, {}),
            (cwl2(10, table=9, model=model), 0, FOOLED),
        ]
        if model != "O:LINEAR:MSE":
            found += [(replace(cell, table=3), *rest) for cell, *rest in found if cell.attack]
        cells += found
    cells.append((untargeted("Madry", 0.2, table=9), 85, {"linf": np.full(COUNT, 0.1)}))
    under = "PGD(eps=0.2, loss='train', step_size=0.05, steps=7, keep='last')"
    return made_up(
        folder, "digits", cells, {"O:LINEAR:MSE": {"attack": under}, CE: {"attack": None}}
    )


def test_other_defences_stand_across(tmp_path):
    root = defences(tmp_path)
    table = table_of(root, "Table 9. Comparison defences")
    assert table.turned and table.models == (CE, CODED, "O:LINEAR:MSE")
    assert "O:LINEAR:MSE was trained on PGD(eps=0.2, loss='train', " in table.caption
    assert f"{CE} was trained" not in table.caption
    (text,) = table.as_printed()
    assert text.head == ("attack", "", *table.models)
    rates = [(name, head, *(cell[:5] for cell in rest)) for name, head, *rest in text.rows]
    assert rates == [
        ("clean", "accuracy", "1.000", "1.000", "1.000"),
        ("BIM", "eps 0.1", "0.100", "0.800", "0.600"),
        ("", "eps 0.2", "0.050", "0.750", "0.550"),
        ("PGD (class scores)", "eps 0.1", "0.050", "0.200", "0.500"),
        ("CWL2", "c 10", "1.000", "1.000", "1.000"),
        ("Madry", "eps 0.2", "-", "0.150", "-"),
        ("the paper's attacks", "eps 0.1", "0.100", "0.150", "0.600"),
        ("", "eps 0.2", "0.050", "0.150", "0.550"),
        ("all attacks", "eps 0.1", "0.050", "0.150", "0.500"),
        ("", "eps 0.2", "0.050", "0.150", "0.500"),
    ]
    assert "claims 0.98, false 0.98" in text.rows[4][2] and "0.500" in text.rows[-1][-1]


def test_other_defences_on_the_page(tmp_path):
    root = defences(tmp_path)
    written = writer.write(root)
    page = written.page.read_text()
    table = page[page.index('id="table-9"') :].partition("</section>")[0]
    assert [table.count(f'<th class="first">{name}</th>') for name in (CE, "O:LINEAR:MSE")] == [
        1,
        1,
    ]
    assert table.count("<td") == 10 * 3 and table.count('rowspan="2"') == 3
    assert 'PGD <span class="class-scores">class scores</span>' in " ".join(table.split())
    assert "| BIM | eps 0.1 | 0.100 [" in written.markdown.read_text()
    assert (
        "Other defences, within eps = 0.2 under the worst attack of Table 9: "
        "O:LINEAR:MSE 50.0% (clean 100.0%)." in page
    )
    # Curves and the worst case compare the paper's classifiers, under all of their attacks.
    run = results.read(root)
    worst = rate_tables._worst_case(run)
    assert worst.models == (CE, CODED)
    assert [group.entries[CODED][0].rate.value for group in worst.groups] == [0.8, 0.2]
    assert all("LINEAR" not in svg for svg in curves.all_curves(run).values())


def test_a_run_of_other_defences_alone(tmp_path):
    cells = [
        (untargeted("BIM", 0.1, table=9), None, {}),
        (untargeted("BIM", 0.1, model="O:TANH:MSE", table=9), 30, {}),
    ]
    root = made_up(tmp_path, "digits", cells)
    table = table_of(root, "Table 9")
    assert [group.entries[CODED] for group in table.groups] == [(None,)] * 3
    assert [e.rate.value for g in table.groups[:2] for e in g.entries["O:TANH:MSE"]] == [0.7, 0.7]
    assert "attack of Table 9: O:TANH:MSE 70.0% (clean" in writer.write(root).page.read_text()


def probe(eps, model):
    return replace(targeted("Madry", eps, model=model), table=1, probe=True)


def test_a_probe_left_out_is_not_missing(tmp_path):
    outcome = [(0.1, 90, CE), (0.3, 100, CE), (0.2, 100, CE), (0.4, None, CE), (0.4, 80, CODED)]
    cells = [(probe(eps, model), broken, {}) for eps, broken, model in outcome]
    cells.append((targeted("Madry", 0.05, model=CE), 100, {}))  # Table 5's grid is not the search's
    root = made_up(tmp_path, "digits", cells)
    run = results.read(root)
    assert run.missing == ()
    table = table_of(root, "Figure 1")
    assert table.groups[0].heads == ("eps 0.1", "eps 0.2", "eps 0.3", "eps 0.4")
    (gallery,) = galleries.galleries(run)
    shown = [(strip.result.cell.model, strip.result.value) for strip in gallery.strips]
    assert shown == [(CE, 0.2), (CODED, 0.4)]
    assert "not\n    measured" not in writer.write(root).page.read_text()


def test_without_a_search_figure_1_takes_the_grid(tmp_path):
    cells = [(targeted("Madry", eps, model=CE), 100, {}) for eps in (0.2, 0.1)]
    (gallery,) = galleries.galleries(results.read(made_up(tmp_path, "digits", cells)))
    assert [strip.result.value for strip in gallery.strips] == [0.1]


def test_figures_2_and_3(tmp_path):
    attack = "ModifiedCWL2(initial_const=0.1)"
    modified = Cell(7, "modified CWL2", "initial_const", 0.1, CODED, attack, targeted=True)
    cells = [
        (targeted("MIM", 0.1, model=CE), 90, {}),
        (targeted("MIM", 0.2, model=CE), 90, {}),
        (targeted("MIM", 0.1), 3, {}),
        (modified, 70, {}),
        (replace(modified, model=CE), 70, {}),
    ]
    second, third = galleries.galleries(results.read(made_up(tmp_path, "mnist", cells)))
    assert (second.number, third.number) == (2, 3)
    assert [(s.result.cell.model, s.result.value) for s in second.strips] == [
        (CE, 0.1),
        (CODED, 0.1),
    ]
    assert [s.result.cell.model for s in third.strips] == [CODED]
    assert len(third.strips[0].pictures) == 10


def test_distances_are_those_of_the_successes(tmp_path):
    l2 = np.where(np.arange(COUNT) < 30, 0.5, 9.0)
    cells = [
        (cwl2(0.01), 30, {"l2": l2, "linf": l2 / 5}),
        (cwl2(0.01, model=CE), 30, {"facts": {"first_success": True}}),
        (cwl2(0.1), 0, {}),
        (cwl2(0.01, table=6, source=CE), 30, {}),
        (Cell(4, "clean", None, None, CODED, None), 0, {}),
    ]
    rows = detail_tables.distances(results.read(made_up(tmp_path, "digits", cells))).rows
    assert rows == (
        ("3", "CWL2", "paper's protocol", "initial_const 0.01", "0.5 / 0.1", "first success"),
        ("3", "CWL2", "paper's protocol", "initial_const 0.1", "-", "-"),
        ("6", "CWL2", "paper's protocol, transferred", "initial_const 0.01", "1 / 0.01", "-"),
    )
    assert "first success" in writer.write(tmp_path).page.read_text()


def test_costs_add_up_and_shared_cells_count_once(tmp_path):
    shared = {"key": "same", "facts": {"naive": 1000, "executed": 100, "stalled": 7}}
    cells = [
        (untargeted("MIM", 0.1), 3, shared),
        (untargeted("MIM", 0.1, table=8), 3, shared),
        (untargeted("BIM", 0.1), 3, {"facts": {"naive": 500, "executed": 400}}),
    ]
    run = results.read(made_up(tmp_path, "digits", cells))
    assert detail_tables.cost_sums(run).rows == (
        ("Table 3", "2", "2.5", "1,500", "500", "3.00"),
        ("Table 8", "1", "1.2", "1,000", "100", "10.00"),
        ("in total", "2", "2.5", "1,500", "500", "3.00"),
    )
    rows = detail_tables.costs(run).rows
    assert [row[4:] for row in rows] == [
        ("1,000", "100", "10.00", "7"),
        ("1,000", "100", "10.00", "7"),
        ("500", "400", "1.25", "-"),
    ]


def test_a_folder_that_says_less_is_shown_with_gaps(tmp_path):
    root = made_up(tmp_path, "digits", [(untargeted("MIM", 0.1), 3, {})])
    run = results.read(root)
    for name in ("seconds", "naive", "executed", "invalid"):
        del run.results[0].facts[name]
    assert detail_tables.costs(run).rows[0][3:] == ("-",) * 5
    assert detail_tables.cost_sums(run).rows[-1][2:] == ("0.0", "0", "0", "-")
    (line,) = csv.DictReader(writer.comma_separated(run, {}).splitlines())
    assert (line["naive"], line["stalled"], line["first_success"]) == ("", "", "False")


def test_unbounded_attacks_and_transfers_count_in_the_worst_case(tmp_path):
    near = np.where(np.arange(COUNT) < 50, 0.05, 0.3)
    cells = [
        (untargeted("BIM", 0.1), 10, {}),
        (cwl2(0.01), 60, {"linf": near}),
        (untargeted("MIM", 0.1, table=6, source=CE), 55, {}),
    ]
    table = table_of(made_up(tmp_path, "digits", cells), "Worst case")
    left = [group.entries[CODED][0].rate.value for group in table.groups]
    assert table.groups[0].heads == ("eps 0.1",) and left == [0.45, 0.45]
    radius = smallest_breaks(results.read(tmp_path).select(column="CWL2"))
    assert robust_at(radius, 0.1).value == 0.5


def test_a_block_holds_twelve_columns(tmp_path):
    names = ["BIM", "MIM", "FGSM", "PGD"]
    cells = [(untargeted(n, e / 10), 3, {}) for n in names for e in range(1, 5)]
    table = table_of(made_up(tmp_path, "digits", cells), "Table 3")
    assert [len(block) for block in table.blocks] == [3, 1]
    assert [len(text.head) for text in table.as_printed()] == [13, 5]
