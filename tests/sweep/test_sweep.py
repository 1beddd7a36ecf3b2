import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_run import plan as tiny_plan
from tiny_run import prepare

import fastrobust as fr
from fastrobust import attacks, data
from fastrobust.models import checkpoint
from fastrobust.report import results, writer
from fastrobust.runs.folder import RunFolder, checkpoint_path
from fastrobust.runs.plan import Cell
from fastrobust.sweep import runner, testbed, work
from fastrobust.sweep.measure import measure
from fastrobust.train import missing
from fastrobust.utils.errors import CheckpointError, StoreError


@pytest.fixture
def run(tmp_path):
    return prepare(tmp_path)


def rows_of(out):
    """Return every row of every cell; all tables are made of them."""
    return {
        result.key: {name: column.tolist() for name, column in result.rows.items()}
        for result in results.read(out).results
    }


def test_every_cell_is_measured_once(run, device):
    plan, out = run
    outcome = runner.run(plan, out, device=device)
    assert (outcome.measured, outcome.reused, outcome.failed) == (len(plan.cells), 0, [])
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    outcome = runner.run(plan, out, device=device)
    assert (outcome.measured, outcome.reused, outcome.failed) == (0, len(plan.cells), [])
    assert before == {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}


def test_rows_are_those_of_the_attack(run):
    plan, out = run
    runner.run(plan, out)
    test = data.load(plan.data_set)
    x, y = test.x_test[: plan.limit], test.y_test[: plan.limit]
    target = attacks.random_targets(y, test.num_classes, plan.seed)
    for result in results.read(out).results:
        model = checkpoint.load(checkpoint_path(out, result.cell.model))
        np.testing.assert_array_equal(result.rows["clean"], model.predict(x))
        np.testing.assert_array_equal(result.rows["label"], y)
        np.testing.assert_array_equal(result.rows["index"], np.arange(len(y)))
        if result.cell.attack is None:
            np.testing.assert_array_equal(result.rows["decision"], model.predict(x))
            assert not result.rows["success"].any() and (result.rows["queries"] == 1).all()
            continue
        asked = {"target": target} if result.cell.targeted else {}
        expected = attacks.from_repr(result.cell.attack).run(model, x, **asked)
        for name in ("decision", "claimed", "success", "queries"):
            np.testing.assert_array_equal(result.rows[name], getattr(expected, name), err_msg=name)
        for name in ("l2", "linf"):
            # Batches of 7 and of 18 differ in the last bits of a convolution.
            np.testing.assert_allclose(result.rows[name], getattr(expected, name), atol=1e-5)
        targets = target if result.cell.targeted else torch.full_like(target, -1)
        np.testing.assert_array_equal(result.rows["target"], targets)
        images = RunFolder(out).read_images(result.key)
        np.testing.assert_allclose(images["adversarial"], expected.adv, atol=1e-5)
        np.testing.assert_array_equal(images["index"], np.arange(len(y)))


def test_labels_of_the_true_kind_are_given_to_the_attack(run):
    plan, out = run
    test = data.load(plan.data_set)
    model = checkpoint.load(checkpoint_path(out, "O:SOFTMAX:CE"))
    bed = testbed.Testbed(model, test.x_test, test.y_test, 3, batch=20, seed=0)
    cell = Cell(3, "FGSM", "eps", 0.2, "O:SOFTMAX:CE", "FGSM(eps=0.2)", labels="true")
    ((count, completed),) = measure([cell], bed)
    assert count == 20
    rows = completed[cell].rows
    expected = attacks.FGSM(eps=0.2).run(model, test.x_test, test.y_test)
    np.testing.assert_array_equal(rows["decision"], expected.decision)
    np.testing.assert_array_equal(rows["success"], expected.decision != test.y_test)


def test_a_row_does_not_depend_on_how_many_there_are(tmp_path):
    plan, out = prepare(tmp_path, limit=20)
    runner.run(plan, out)
    (tmp_path / "short").mkdir()
    short, short_out = prepare(tmp_path / "short", limit=9)
    runner.run(short, short_out)
    long_rows, short_rows = list(rows_of(out).values()), list(rows_of(short_out).values())
    for many, few in zip(long_rows, short_rows, strict=True):
        for name, column in few.items():
            assert column == many[name][:9], name


def test_evaluations_are_counted(run, tmp_path):
    plan, out = run
    runner.run(plan, out)
    (tmp_path / "plain").mkdir()
    _, plain = prepare(tmp_path / "plain")
    runner.run(plan, plain, without=("clean-gradient",))
    executed = {}
    for folder in (out, plain):
        for result in results.read(folder).results:
            facts, cell = result.facts, result.cell
            assert facts["naive"] == result.rows["queries"].sum()
            if cell.column == "MIM":  # 3 forward and backward, 1 forward for the decision
                assert facts["naive"] == 18 * 7
            assert facts["invalid"] == 0 and facts["seconds"] >= 0
            key = (folder, cell.column, cell.model)
            executed[key] = executed.get(key, 0) + facts["executed"]
    for model in ("O:SOFTMAX:CE", "R:TANH:MSE"):
        # 36 rows of two cells are assessed in 6 batches of 7, 18 images in 3.
        assert executed[out, "FGSM", model] == 3 * 7 * 2 + 6 * 7
        assert executed[plain, "FGSM", model] == 6 * 7 * 2 + 6 * 7
        assert executed[out, "clean", model] == 18


def test_a_failing_cell_does_not_stop_the_others(run):
    plan, out = run
    bad = Cell(3, "FGSM", "eps", 0.1, "O:SOFTMAX:CE", "FGSM(eps=0.1, clip=(0.4, 0.6))")
    plan = replace(plan, cells=(bad, *plan.cells))
    outcome = runner.run(plan, out)
    assert outcome.measured == len(plan.cells) - 1
    assert len(outcome.failed) == 1 and outcome.failed[0].startswith(f"{bad.attack} on {bad.model}")
    run = results.read(out)
    assert run.missing == (bad,)
    assert [record["attack"] for record in run.failures] == [bad.attack]
    assert "x must lie in the box" in run.failures[0]["error"]
    assert "Traceback" in run.failures[0]["traceback"]


def test_a_damaged_cell_is_named_and_not_trusted(run):
    plan, out = run
    runner.run(plan, out)
    path = sorted((out / "cells").iterdir())[0]
    path.write_bytes(path.read_bytes()[:100])
    outcome = runner.run(plan, out)
    assert outcome.reused == len(plan.cells) - 1 and outcome.measured == 0
    assert len(outcome.failed) == 1 and str(path) in outcome.failed[0]
    with pytest.raises(StoreError, match=path.name):
        results.read(out)
    path.unlink()
    assert runner.run(plan, out).measured == 1


def test_another_run_is_refused(run):
    plan, out = run
    runner.run(plan, out)
    for name, value in (("seed", 1), ("limit", 9), ("batch", 18)):
        words = rf"hold this same run, but .*its plan\.{name} is \d+, not {value}"
        with pytest.raises(StoreError, match=words):
            runner.run(replace(plan, **{name: value}), out)
    # The same run may have fewer or more cells.
    assert runner.run(replace(plan, cells=plan.cells[:3]), out).reused == 3
    assert len(results.read(out).results) == 3


@pytest.mark.skipif(not fr.build_info()["bf16"], reason="needs AVX512-BF16")
def test_attacks_search_in_bfloat16_and_float32_decides(run, monkeypatch):
    asked = []
    prepared = work.prepare
    monkeypatch.setattr(work, "prepare", lambda *a: asked.append(prepared(*a)) or asked[-1])
    plan, out = run
    exact = out.with_name("exact")
    shutil.copytree(out, exact)
    runner.run(plan, exact)
    runner.run(replace(plan, precision="bf16"), out)
    assert [(m.search.precision, m.exact.precision) for m in asked] == (
        2 * [("fp32", "fp32")] + 2 * [("bf16", "fp32")]
    )
    ours, others = results.read(out), results.read(exact)
    assert ours.plan.precision == "bf16" and others.plan.precision == "fp32"
    assert not {r.key for r in ours.results} & {r.key for r in others.results}
    for rounded, other in zip(ours.results, others.results, strict=True):
        if rounded.cell.attack is None:
            np.testing.assert_array_equal(rounded.rows["decision"], other.rows["decision"])
        else:
            assert abs(rounded.rate.value - other.rate.value) <= 2 / 18
    assert "Attacks ran in bf16" in writer.write(out).page.read_text()
    assert "Attacks ran in" not in writer.write(exact).page.read_text()
    with pytest.raises(StoreError, match=r"hold this same run, but .*its plan\.precision is"):
        runner.run(plan, out)


def test_other_weights_are_refused(run):
    plan, out = run
    runner.run(plan, out)
    path = checkpoint_path(out, "R:TANH:MSE")
    model = checkpoint.load(path)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    checkpoint.save(path, model, seed=0)
    with pytest.raises(StoreError, match=r"but its models\.R:TANH:MSE\.weights_digest is"):
        runner.run(plan, out)


def test_other_classifiers_in_the_folder_are_named_not_listed(run):
    plan, out = run
    runner.run(plan, out)
    fewer = replace(plan, cells=tuple(c for c in plan.cells if c.model == "R:TANH:MSE"))
    with pytest.raises(StoreError, match=r"but its models\.O:SOFTMAX:CE is there, not null: give"):
        runner.run(fewer, out)


def test_a_missing_checkpoint_is_named(run):
    plan, out = run
    checkpoint_path(out, "R:TANH:MSE").unlink()
    with pytest.raises(FileNotFoundError, match=r"r-tanh-mse\.safetensors must hold .*train"):
        runner.run(plan, out)
    assert not (out / "run.json").exists()


def test_checkpoints_of_another_training_are_refused(run):
    plan, out = run
    path = checkpoint_path(out, "O:SOFTMAX:CE")
    checkpoint.save(path, checkpoint.load(path), seed=5, config={"net": "tiny"})
    with pytest.raises(CheckpointError, match="must be trained with seed 0, got 5"):
        missing.train_missing(plan, out)
    config = {"net": "tiny", "epochs": 3}
    digest = data.load(plan.data_set).digest
    for name in plan.models:
        path = checkpoint_path(out, name)
        checkpoint.save(path, checkpoint.load(path), seed=0, digest=digest, config=config)
    assert set(missing.train_missing(plan, out)) == set(missing.train_missing(plan, out, epochs=3))
    with pytest.raises(CheckpointError, match="must be trained with epochs 2, got 3"):
        missing.train_missing(plan, out, epochs=2)


def test_jobs_share_the_cells(run, tmp_path):
    plan, out = run
    bad = Cell(3, "FGSM", "eps", 0.1, "O:SOFTMAX:CE", "FGSM(eps=0.1, clip=(0.4, 0.6))")
    plan = replace(plan, cells=(plan.cells[0], bad, *plan.cells[1:]))
    outcome = runner.run(plan, out, jobs=2)
    assert (outcome.measured, outcome.reused, len(outcome.failed)) == (len(plan.cells) - 1, 0, 1)
    (tmp_path / "alone").mkdir()
    _, alone = prepare(tmp_path / "alone")
    runner.run(plan, alone)
    assert rows_of(out) == rows_of(alone)
    outcome = runner.run(plan, out, jobs=2)
    assert (outcome.measured, outcome.reused) == (0, len(plan.cells) - 1)


def test_two_writers_share_a_folder(run):
    plan, out = run
    command = [sys.executable, "-c", WORKER, json.dumps(plan.to_json()), str(out)]
    workers = [subprocess.Popen(command) for _ in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    assert runner.run(plan, out).reused == len(plan.cells)


WORKER = """
import json, sys, torch
from fastrobust import plans, sweep
torch.set_num_threads(1)
outcome = sweep.run(plans.Plan.from_json(json.loads(sys.argv[1])), sys.argv[2])
sys.exit(len(outcome.failed))
"""


def test_a_killed_sweep_goes_on_to_the_same_tables(tmp_path):
    plan, out = prepare(tmp_path)
    # Many more cells, so that there is time to kill it between the first and the last.
    plan = tiny_plan(plan.data_set, eps=tuple(round(0.01 * n, 2) for n in range(1, 9)))
    command = [sys.executable, "-c", WORKER, json.dumps(plan.to_json()), str(out)]
    worker = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while len(list(out.glob("cells/*.parquet"))) < 5:
        assert worker.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    kept = len(list(out.glob("cells/*.parquet")))
    assert 5 <= kept < len(plan.cells)

    outcome = runner.run(plan, out)
    assert (outcome.reused, outcome.failed) == (kept, [])
    (tmp_path / "whole").mkdir()
    _, whole = prepare(tmp_path / "whole")
    runner.run(plan, whole)
    assert rows_of(out) == rows_of(whole)


def test_keys_follow_the_description():
    key = work.cell_key("PGD(eps=0.1, loss='ce') R:TANH:MSE", {"seed": 0, "attack": "x"})
    assert key.rpartition("-")[0] == "pgd-eps-0.1-loss-ce-r-tanh-mse"
    assert key == work.cell_key("PGD(eps=0.1, loss='ce') R:TANH:MSE", {"attack": "x", "seed": 0})
    assert key != work.cell_key("PGD(eps=0.1, loss='ce') R:TANH:MSE", {"attack": "x", "seed": 1})
    assert len(work.cell_key("x" * 300, {})) < 100
