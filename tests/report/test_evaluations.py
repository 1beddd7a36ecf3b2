"""Evaluations beside a run's tables: what was evaluated is what stands there."""

import json
from dataclasses import replace

import pytest
from fake_run import made_up, untargeted

from fastrobust.cli import evaluate
from fastrobust.report import flags, rate_tables, results, writer
from fastrobust.runs.folder import evaluation_path
from fastrobust.runs.plan import Cell, Plan
from fastrobust.sweep import runner
from fastrobust.utils.errors import StoreError
from fastrobust.utils.stats import Rate


def written(root, model, eps, robust, count=10, budget="quick", fails=()):
    path = evaluation_path(root, model, eps) / "evaluation.json"
    path.parent.mkdir(parents=True)
    content = {
        "eps": eps, "budget": budget, "robust_accuracy": robust / count, "count": count,
        "checks": [{"name": name, "verdict": "fail"} for name in fails]
        + [{"name": "fine", "verdict": "pass"}],
        "evaluations": 70, "seconds": 1.5,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def table_3(root):
    run = results.read(root)
    tables = rate_tables.rate_tables(run, flags.find_flags(run))
    return next(table for table in tables if table.title.startswith("Table 3"))


def test_what_evaluations_leave_stands_in_the_last_columns(tmp_path):
    root = made_up(tmp_path, "mnist", [(untargeted("BIM", 0.1), 30, {})])
    plain = table_3(root)
    written(root, "R:TANH:MSE", 0.2, 1, fails=("more steps", "8 bits"))
    written(root, "R:TANH:MSE", 0.1, 7)
    written(root, "somebody else's", 0.1, 9)
    found = results.read(root).evaluations
    assert [(one.eps, one.rate) for one in found] == [(0.1, Rate(7, 10)), (0.2, Rate(1, 10))]
    assert (found[1].failed, found[1].evaluations) == (("more steps", "8 bits"), 70)
    group = table_3(root).groups[-1]
    assert (group.title, group.heads) == ("evaluate, quick", ("eps 0.1", "eps 0.2"))
    low, high = group.entries["R:TANH:MSE"]
    assert (low.rate, high.rate) == (Rate(7, 10), Rate(1, 10))
    assert (low.notes, high.notes) == ((), ("fails: more steps, 8 bits",))
    assert table_3(root).groups[:-1] == plain.groups
    assert "evaluate, quick" in writer.write(root).page.read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"eps": 0.1}'])
def test_what_is_no_evaluation_is_named(tmp_path, content):
    root = made_up(tmp_path, "mnist", [(untargeted("BIM", 0.1), 30, {})])
    path = written(root, "R:TANH:MSE", 0.1, 7)
    path.write_text(content)
    with pytest.raises(StoreError, match=r"evaluation\.json must hold an evaluation"):
        results.read(root)


def test_a_run_is_evaluated_on_its_own_images_and_only_once(tmp_path):
    from tiny_run import classifiers, data_set

    out = tmp_path / "run"
    classifiers(out)
    cells = tuple(
        Cell(3, "FGSM", "eps", 0.1, model, "FGSM(eps=0.1)")
        for model in ("O:SOFTMAX:CE", "R:TANH:MSE")
    )
    plan = Plan(data_set=data_set(tmp_path), preset="tiny", net="tiny", cells=cells, limit=9)
    evaluate.examine_run(plan, "quick", device="cpu", data_root=None, out=out)
    runner.run(plan, out)
    run = results.read(out)
    places = [(one.model, one.eps, one.rate.count) for one in run.evaluations]
    assert places == [(m, eps, 9) for m in ("O:SOFTMAX:CE", "R:TANH:MSE") for eps in (0.1, 0.2)]
    for one in run.evaluations:
        clean = run.clean_accuracy(one.model)
        fgsm = next(r for r in run.results if r.cell.model == one.model)
        assert one.rate.hits <= min(clean.hits, fgsm.rate.hits)
    path = evaluation_path(out, "R:TANH:MSE", 0.1) / "evaluation.json"
    assert any("another model" in c["name"] for c in json.loads(path.read_text())["contributions"])
    before = path.stat().st_mtime_ns
    evaluate.examine_run(plan, "quick", device="cpu", data_root=None, out=out)
    assert path.stat().st_mtime_ns == before
    for other, budget, message in (
        (plan, "standard", "must hold an evaluation of budget standard, got quick"),
        (replace(plan, limit=8), "quick", "must hold an evaluation of count 8, got 9"),
    ):
        with pytest.raises(StoreError, match=message):
            evaluate.examine_run(other, budget, device="cpu", data_root=None, out=out)
    assert path.stat().st_mtime_ns == before
