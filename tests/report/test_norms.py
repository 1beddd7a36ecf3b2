import html
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch
from nets import random_net
from tiny_run import prepare
from torch import nn

from fastrobust import data
from fastrobust.models import checkpoint
from fastrobust.report import norm_figure, norm_tables, norms, results, writer
from fastrobust.report.claims import norms as norm_claims
from fastrobust.runs.folder import checkpoint_path
from fastrobust.spectral.bounds import lipschitz
from fastrobust.sweep import runner

CE, MSE, CODED = "O:SOFTMAX:CE", "O:SOFTMAX:MSE", "R:TANH:MSE"


def net_report(**factors):
    """Report of one net whose convolutions' norms are multiplied by factors (raw, scale_free)."""
    found = lipschitz(random_net(layers=(1, 1), growth=4, num_outputs=3), 8)
    layers = tuple(
        replace(
            layer,
            raw=layer.raw * factors.get("raw", [1] * 99)[place],
            scale_free=(layer.scale_free or 0) * factors.get("scale_free", [1] * 99)[place],
        )
        for place, layer in enumerate(found.convolutions)
    )
    return replace(found, layers=layers)


def words(svg):
    comments = [line.strip() for line in svg.splitlines() if line.strip().startswith("<!-- ")]
    return [line[5:-4] for line in comments]


def test_a_claim_that_holds():
    reports = {CE: net_report(raw=[2, 2.5, 1.5, 2, 1.25, 3], scale_free=[2] * 6), MSE: net_report()}
    drawn = norm_claims.conclusion(reports)
    assert drawn.section == "5.6"
    assert "Here: smaller in 6 of 6 convolutions, by a factor of up to 3.00 (" in drawn.sentence
    assert drawn.sentence.count("; this agrees.") == 2


def test_a_claim_that_is_a_matter_of_scale():
    flat = [1.1, 0.9, 1, 1, 1, 1]
    reports = {CE: net_report(raw=[2] * 6, scale_free=flat), MSE: net_report()}
    drawn = norm_claims.conclusion(reports)
    assert "; this agrees. Scale-free norms: " in drawn.sentence
    assert "smaller in 1 of 6 convolutions, by a factor of up to 1.10 (stem)" in drawn.sentence
    assert drawn.sentence.endswith("; this disagrees.")


def test_a_claim_that_fails():
    reports = {CE: net_report(raw=[2, 2, 2, 2, 2, 0.5]), MSE: net_report()}
    drawn = norm_claims.conclusion(reports)
    assert "smaller in 5 of 6 convolutions, by a factor of up to 2.00 (stem); this disagrees" in (
        drawn.sentence
    )


def test_no_claim_without_both_or_between_different_nets():
    other = lipschitz(random_net(layers=(2, 1), growth=4, num_outputs=3), 8)
    assert norm_claims.conclusion({CE: net_report()}) is None
    assert norm_claims.conclusion({CE: net_report(), MSE: other}) is None
    assert norm_claims.sentences({CE: net_report()}) == [norm_claims.CAVEAT]


def test_the_picture_has_the_printed_panel_the_third_classifier_and_the_scale_free_one():
    reports = {name: net_report() for name in (CE, MSE, CODED)}
    svg = norm_figure.draw({**reports, "R:TANH:MSE:64": net_report()})
    ET.fromstring(svg)
    found = words(svg)
    assert [w for w in found if "norm" in w] == ["norm", f"norm, with {CODED}", "scale-free norm"]
    assert {CE, MSE, CODED} <= set(found) and "R:TANH:MSE:64" not in found
    two = words(norm_figure.draw({name: reports[name] for name in (CE, MSE)}))
    assert [w for w in two if "norm" in w] == ["norm", "scale-free norm"]
    assert "mine" in words(norm_figure.draw({"mine": net_report()}))


def test_no_picture_without_convolutions():
    assert norm_figure.draw({}) is None
    linear = lipschitz(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), 2)
    assert norm_figure.draw({"mine": linear}) is None
    assert norm_tables.totals({"mine": linear}).rows[0][1] == "-"


def test_tables_show_what_counts():
    net = random_net(layers=(1, 1), growth=4, num_outputs=3)
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    found = lipschitz(net, 8, x, y, eps=(0.1,))
    layers, totals, inequality = norm_tables.tables({"mine": found})
    kinds = [row[1] for row in layers.rows]
    assert kinds.count("conv") == len(found.convolutions) and "batch norm" not in kinds
    assert totals.rows[0][2] == f"{found.bound:.3g}" and totals.rows[0][4] != "-"
    without = norm_tables.totals({"mine": lipschitz(net, 8)})
    assert len(without.head) == len(without.rows[0]) == 4 and len(totals.head) == 6
    both = norm_tables.totals({"mine": found, "other": lipschitz(net, 8)})
    assert both.rows[1][4:] == ("-", "-")
    assert inequality.rows[0][:2] == ("mine", "0.1")
    assert len(norm_tables.tables({"mine": lipschitz(net, 8)})) == 2
    numbers = norm_tables.convolution_table({"mine": found, "other": net_report()})
    assert numbers.head == ("", "convolution", "mine", "other")
    first = found.convolutions[0]
    assert numbers.rows[0][2] == f"{first.raw:.3f} / {first.scale_free:.3f}"


def test_a_run_folder_is_read_as_far_as_it_goes(tmp_path):
    plan, out = prepare(tmp_path)
    runner.run(plan, out)
    run = results.read(out)
    reports = norms.measure_norms(run)
    assert list(reports) == [CE, CODED] and reports[CE].input_size == (8, 8)
    found = reports[CODED]
    clean = data.load(plan.data_set)
    x, y = clean.x_test[: plan.limit], clean.y_test[: plan.limit]
    alone = lipschitz(checkpoint.load(checkpoint_path(out, CODED)), 8, x, y, eps=(0.5,))
    assert torch.allclose(found.images.stretch, alone.images.stretch)
    assert torch.equal(found.images.radius, alone.images.radius)
    assert found.inequalities == alone.inequalities
    written = writer.write(out)
    printed, page = written.markdown.read_text(), written.page.read_text()
    for title in ("Lipschitz bounds of the class scores", "E[J_adv] <= E[J] + lambda Lambda eps"):
        assert f"## {title}" in printed and f"<h3>{html.escape(title)}</h3>" in page
    assert "Figure 4 in numbers" in printed
    row = f"| {CODED} | 0.5 | {found.inequalities[0].loss:.4g} | "
    assert row in printed and f"| {found.lower_bound:.3g} | " in printed
    for one in run.select(table=4):
        run.folder.images_path(one.key).unlink()
    assert norms.measure_norms(run)[CODED].images is None
    checkpoint_path(out, CE).unlink()
    assert list(norms.measure_norms(results.read(out))) == [CODED]
    checkpoint_path(out, CODED).unlink()
    assert norms.measure_norms(results.read(out)) == {}
    written = writer.write(out)
    assert "Figure 4" not in written.page.read_text() + written.markdown.read_text()


@pytest.mark.parametrize("name", [CE, "mine"])
def test_the_papers_classifiers_come_first(name):
    reports = {"z": net_report(), CODED: net_report(), name: net_report()}
    order = list(norms.in_order(reports))
    assert order == ([CE, CODED, "z"] if name == CE else [CODED, "z", "mine"])
