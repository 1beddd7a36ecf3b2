import csv
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from fake_run import COUNT, made_up, targeted, untargeted
from tiny_run import CLASSES, prepare

from fastrobust.paper import printed as paper
from fastrobust.report import detail_tables, results, writer
from fastrobust.report.results import robust_at, smallest_breaks
from fastrobust.runs.plan import Cell
from fastrobust.sweep import runner
from fastrobust.utils.errors import StoreError
from fastrobust.utils.stats import Rate


def test_rates_are_counted_by_hand(tmp_path):
    root = made_up(
        tmp_path,
        "mnist",
        [
            (untargeted("BIM", 0.1), 30, {}),
            (targeted("BIM", 0.1), 30, {"decision": np.zeros(COUNT)}),
        ],
    )
    accuracy, success = results.read(root).results
    assert (accuracy.rate, accuracy.defended) == (Rate(70, 100), 0.7)
    assert (success.rate, success.defended) == (Rate(30, 100), 0.7)
    assert accuracy.paper == paper.lookup(3, "mnist", "R:TANH:MSE", "BIM", 0.1) == 0.429
    assert success.paper == 0.057
    assert accuracy.median("linf") == 0.1
    assert (accuracy.met, success.met) == (0, 0)


def test_targets_met_without_attack_are_counted_apart(tmp_path):
    met = np.where(np.arange(COUNT) < 4, np.arange(COUNT) % 10, (np.arange(COUNT) + 1) % 10)
    root = made_up(tmp_path, "digits", [(targeted("BIM", 0.1), 30, {"target": met})])
    assert results.read(root).results[0].met == 4
    assert "decision is already the target: R:TANH:MSE 4." in (writer.write(root).page.read_text())


def test_worst_case_is_per_image(tmp_path):
    first, second = np.arange(COUNT) < 40, np.arange(COUNT) >= 90
    wrong = np.where(np.arange(COUNT) == 50, 9, np.arange(COUNT) % 10)
    cells = [
        (untargeted("BIM", 0.1), 0, {"decision": np.arange(COUNT) % 10 + first}),
        (untargeted("MIM", 0.2), 0, {"decision": np.arange(COUNT) % 10 + second}),
        (untargeted("FGSM", 0.1), 0, {"clean": wrong}),
    ]
    run = results.read(made_up(tmp_path, "digits", cells))
    radius = smallest_breaks(run.results)
    assert robust_at(radius, 0.0).hits == 99  # one is wrong without attack
    assert robust_at(radius, 0.05).hits == 99
    assert robust_at(radius, 0.1).hits == 59  # an image at eps itself is within eps
    assert robust_at(radius, 0.2).hits == 49
    with pytest.raises(ValueError, match="at least one result"):
        smallest_breaks([])


def test_a_rounding_beyond_eps_is_within_it():
    radius = np.array([np.float32(0.1) + np.float32(1e-8), 0.1001])
    assert robust_at(radius, 0.1).hits == 1


class Page(HTMLParser):
    """Collects what a page would load, and checks that its tags match."""

    VOID = ("meta", "img", "br", "link", "path", "use", "rect")

    def __init__(self, text):
        super().__init__()
        self.loads, self.open, self.text, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset") and not value.startswith("#"):
                self.loads.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    plan, out = prepare(tmp_path_factory.mktemp("swept"))
    runner.run(plan, out)
    return plan, out, writer.write(out)


def test_the_page_loads_nothing(swept):
    page = Page(swept[2].page.read_text())
    assert all(place.startswith("data:image/png;base64,") for place in page.loads)
    assert "script" not in page.tags and "link" not in page.tags
    assert "@import" not in swept[2].page.read_text()
    words = " ".join(page.text)
    for expected in ("Table 3.", "Table 4.", "Table 5.", "Worst case", "Figure 1.", "Table 1.",
                     "Table 2.", "Cost of each number", "Figure 4.", "O:SOFTMAX:CE",
                     "R:TANH:MSE"):  # fmt: skip
        assert expected in words
    assert page.tags.count("svg") == 3  # curves of both kinds of attack, and Figure 4
    # Two galleries of two strips... Figure 2 wants eps = 0.1, which the run has.
    assert page.tags.count("img") == 2 * 2 * CLASSES


def test_the_page_shows_the_papers_value_where_the_data_set_is_the_papers(tmp_path):
    cells = [(untargeted("BIM", 0.1), 30, {}), (targeted("MIM", 0.1), 5, {})]
    (tmp_path / "a").mkdir()
    mnist = writer.write(made_up(tmp_path / "a", "mnist", cells))
    text = " ".join(Page(mnist.page.read_text()).text)
    assert "paper .429" in text and "paper .023" in text and "1812.00181" in text
    assert "(paper 0.429, +0.271)" in mnist.markdown.read_text()
    (tmp_path / "b").mkdir()
    digits = writer.write(made_up(tmp_path / "b", "digits", cells))
    assert "paper ." not in " ".join(Page(digits.page.read_text()).text)


def test_the_files_agree(swept):
    plan, out, written = swept
    run = results.read(out)
    lines = list(csv.DictReader(written.csv.read_text().splitlines()))
    assert len(lines) == len(plan.cells)
    printed = written.markdown.read_text()
    for result, line in zip(run.results, lines, strict=True):
        low, high = result.rate.interval
        assert float(line["rate"]) == pytest.approx(result.rate.value, abs=1e-6)
        assert (line["model"], line["column"]) == (result.cell.model, result.cell.column)
        assert f"{result.rate.value:.3f} [{low:.3f}, {high:.3f}]" in printed
        assert f"{result.rate.value:.3f}" in written.page.read_text()


def test_tables_1_and_2_come_from_the_attacks(swept):
    first, second = detail_tables.attack_tables(results.read(swept[1]))
    assert ("BIM", "paper's protocol", "eps") in first.rows
    constants = dict((name, text) for name, _, text in second.rows)
    assert "step_size 0.05" in constants["BIM"] and "steps 3" in constants["BIM"]
    assert "decay 1.0" in constants["MIM"]


def test_a_report_changes_no_global_setting(swept):
    before = dict(matplotlib.rcParams)
    writer.write(swept[1])
    assert dict(matplotlib.rcParams) == before


def test_a_report_repeats_itself(swept):
    page = swept[2].page.read_text()
    writer.write(swept[1])
    # Identifiers inside an SVG are drawn anew; nothing else may differ.
    masked = [re.sub(r"[a-z]?[0-9a-f]{10}", "", t) for t in (page, swept[2].page.read_text())]
    assert masked[0] == masked[1]


def test_an_unfinished_run_has_gaps(tmp_path):
    plan, out = prepare(tmp_path)
    runner.run(plan, out)
    for path in sorted((out / "cells").iterdir())[::2]:
        path.unlink()
    written = writer.write(out)
    text = " ".join(" ".join(Page(written.page.read_text()).text).split())
    assert "9 of 18 numbers are not measured yet" in text
    assert "| - |" in written.markdown.read_text()
    for path in (out / "cells").iterdir():
        path.unlink()
    writer.write(out)


def test_a_failed_cell_is_on_the_page(tmp_path):
    plan, out = prepare(tmp_path)
    bad = "FGSM(eps=0.1, clip=(0.4, 0.6))"
    plan = replace(plan, cells=(*plan.cells, Cell(3, "FGSM", "eps", 0.3, "R:TANH:MSE", bad)))
    runner.run(plan, out)
    text = " ".join(Page(writer.write(out).page.read_text()).text)
    assert bad in text and "x must lie in the box" in text


def test_what_is_written_by_others_stays_text(tmp_path):
    cells = [(Cell(3, "<b>mine</b>", "eps", 0.1, "<i>net</i>", "BIM(eps=0.1)"), 3, {})]
    page = writer.write(made_up(tmp_path, "digits", cells)).page.read_text()
    assert "<b>mine" not in page and "<i>net" not in page


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="must be a run folder"):
        writer.write(tmp_path)


def test_the_curves_stand_by_themselves_too(tmp_path):
    cells = [(untargeted("BIM", 0.1), 30, {}), (targeted("BIM", 0.1), 30, {})]
    out = made_up(tmp_path, "digits", cells)
    written = writer.write(out)
    drawn = {path.name: path.read_text() for path in written.pictures.iterdir()}
    assert drawn.keys() == {"accuracy-eps.svg", "success-eps.svg"}
    writer.write(out)
    assert drawn == {path.name: path.read_text() for path in written.pictures.iterdir()}
    for path in written.pictures.iterdir():
        text = path.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert 'style="color: #222; background: #fff"' in text
    assert "background: #fff" not in written.page.read_text()


def test_a_copy_is_called_one_and_has_the_papers_numbers(tmp_path):
    plan, out = prepare(tmp_path, like="cifar10")
    runner.run(plan, out)
    text = " ".join(writer.write(out).page.read_text().split())
    assert "intervals. The images are a copy of cifar10. Below our numbers are the paper's" in text
    bim = next(results.read(out).select(column="BIM", model="R:TANH:MSE", value=0.1))
    assert bim.paper == paper.lookup(3, "cifar10", "R:TANH:MSE", "BIM", 0.1)
