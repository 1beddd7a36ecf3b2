"""Optimisations of a sweep change no decision and no rate; slots and order change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_run import prepare
from torch import nn

import fastrobust as fr
from fastrobust import attacks
from fastrobust.engine.opening import oracle
from fastrobust.engine.scheduler import run_continuous
from fastrobust.report import results
from fastrobust.runs.folder import RunFolder, checkpoint_path
from fastrobust.runs.plan import Cell
from fastrobust.sweep import runner, testbed, work
from fastrobust.sweep.measure import measure
from fastrobust.sweep.options import SweepOptions

CW = "max_steps=12, learning_rate=0.1"
COUNT = 23


def small_testbed(head="codeword", batch=8):
    """A small classifier in float64, where the batch size changes no result that is compared."""
    torch.manual_seed(0)
    book = fr.Codebook.random(4, 16, key="savings")
    heads = {
        "codeword": fr.heads.Codeword(book),
        "ce": fr.heads.Softmax("ce"),
        "mse": fr.heads.Softmax("mse"),
    }
    width = 16 if head == "codeword" else 4
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, width)
    )  # fmt: skip
    net[3].weight.data *= 4
    model = fr.Classifier(net, heads[head]).double()
    x, y = torch.rand(COUNT, 1, 4, 4).double(), torch.randint(0, 4, (COUNT,))
    y = torch.where(torch.rand(COUNT) < 0.7, model.predict(x), y)  # most decisions are right
    return testbed.Testbed(model, x, y, 4, batch=batch, seed=3)


def cells(template, parameter, values, **fields):
    table = 5 if fields.get("targeted") else 3
    return [Cell(table, "a", parameter, v, "m", template.format(v), **fields) for v in values]


def measured(group, bed, options=None, first_success=True):
    """Measure a group; return its measurements in the order of the cells."""
    measurements, rows = {}, 0
    events = measure(list(group), bed, first_success=first_success, options=options)
    for count, completed in events:
        assert not measurements.keys() & completed.keys()
        measurements |= completed
        rows += count
    assert rows == len(group) * len(bed)
    return [measurements[cell] for cell in group]


CONSTS = (0.01, 0.1, 1, 10)
GROUPS = {
    "cw": cells(f"CWL2(initial_const={{}}, {CW})", "initial_const", CONSTS),
    "cw true": cells(f"CWL2(initial_const={{}}, {CW})", "initial_const", CONSTS, labels="true"),
    "cw targeted": cells(f"CWL2(initial_const={{}}, {CW})", "initial_const", CONSTS, targeted=True),
    "cw weak": cells(  # many searches fail, and a larger c does not always do better
        "CWL2(initial_const={}, max_steps=3, learning_rate=0.12)", "initial_const", (0.01, 0.1),
        targeted=True,
    ),
    "cw units": cells(
        f"CWL2(initial_const={{}}, {CW}, view='units', on_failure='clean', abort_from=1e6)",
        "initial_const", CONSTS, targeted=True,
    ),
    "cw long": cells(
        f"CWL2(initial_const={{}}, {CW}, binary_search_steps=10)", "initial_const", CONSTS[:2]
    ),
    "modified": cells(
        f"ModifiedCWL2(initial_const={{}}, {CW})", "initial_const", CONSTS, targeted=True
    ),
    "lbfgs": cells(
        "LBFGS(initial_const={}, max_steps=15)", "initial_const", CONSTS, targeted=True
    ),
    "deep": cells("DeepFool(max_steps={}, candidates=4)", "max_steps", (1, 2, 4, 9)),
    "deep units": cells(
        "DeepFool(max_steps={}, candidates=4, view='units')", "max_steps", (2, 1, 9)
    ),
    "fgsm": cells("FGSM(eps={}, loss='train')", "eps", (0.05, 0.1, 0.3)),
    "bim": cells("BIM(eps={}, steps=3)", "eps", (0.05, 0.1, 0.3), targeted=True),
    "mim": cells("MIM(eps={}, steps=3, keep='best')", "eps", (0.05, 0.1, 0.3)),
    "pgd": cells("PGD(eps={}, steps=3)", "eps", (0.05, 0.1, 0.3), labels="true"),
}  # fmt: skip
NONE = SweepOptions(False, False, False, False)


@pytest.mark.parametrize("head", ["codeword", "ce"])
@pytest.mark.parametrize("name", GROUPS)
def test_options_change_no_decision_and_no_rate(name, head):
    bed, group = small_testbed(head), GROUPS[name]
    first_success = all(work.may_stop_early(cell, bed) for cell in group)
    plain = measured(group, bed, NONE)
    saved = measured(group, bed, first_success=first_success)
    for cell, one, other in zip(group, plain, saved, strict=True):
        a, b = one.rows, other.rows
        for column in ("index", "label", "target", "clean"):
            np.testing.assert_array_equal(a[column], b[column])
        right = a["clean"] == a["label"]
        # The rate: which decisions are right, or which targets are reached.
        assert ((a["decision"] == a["label"]) == (b["decision"] == b["label"])).all()
        np.testing.assert_array_equal(a["success"], b["success"])
        if not cell.targeted and cell.labels == "own":  # those on wrong decisions do not stop early
            np.testing.assert_array_equal(a["decision"][~right], b["decision"][~right])
        if not other.facts["first_success"]:
            for column in ("decision", "claimed", "queries"):
                np.testing.assert_array_equal(a[column], b[column], err_msg=column)
            for column in ("l2", "linf"):
                np.testing.assert_allclose(a[column], b[column], atol=1e-7)
            adversarial = (one.images["adversarial"], other.images["adversarial"])
            np.testing.assert_allclose(*adversarial, atol=1e-7)
        else:
            assert (b["l2"] >= a["l2"] - 1e-7)[a["success"]].all()
    if name == "cw weak":
        assert all(0.1 < one.rows["success"].mean() < 0.9 for one in plain)
    if first_success:
        assert all(cell.facts["first_success"] for cell in saved)
    spent = [sum(m.facts["executed"] for m in cells) for cells in (plain, saved)]
    if name != "pgd":
        assert spent[1] < spent[0]
    naive = [sum(m.facts["naive"] for m in cells) for cells in (plain, saved)]
    assert naive[0] == naive[1] or first_success


def test_each_option_is_switched_off_by_its_name():
    assert SweepOptions.without(()) == SweepOptions()
    assert SweepOptions.without(("first-success", "prefixes")) == SweepOptions(
        first_success=False, prefixes=False
    )
    with pytest.raises(ValueError, match=r"without must be among first-success, .*got \['all'\]"):
        SweepOptions.without(("all",))


def test_a_search_whose_test_is_not_the_decision_does_not_stop_early():
    units = GROUPS["cw units"][0]
    assert not work.may_stop_early(units, small_testbed("codeword"))
    assert work.may_stop_early(units, small_testbed("ce")) and work.may_stop_early(
        units, small_testbed("mse")
    )
    assert not work.may_stop_early(replace(units, distances=True), small_testbed("ce"))
    assert not work.may_stop_early(GROUPS["fgsm"][0], small_testbed("ce"))
    sure = Cell(3, "a", None, None, "m", "CWL2(confidence=0.5)")
    assert not work.may_stop_early(sure, small_testbed("ce"))


def test_a_search_that_leaves_a_wrong_decision_does_not_stop_early():
    """The first success may be the true label, the nearest one another class."""
    line = nn.Linear(1, 3).double()  # class 0 above 0.5, class 1 below 0.4, class 2 between
    line.weight.data = torch.tensor([[10.0], [-10.0], [0.0]]).double()
    line.bias.data = torch.tensor([-5.0, 4.0, 0.0]).double()
    model = fr.Classifier(nn.Sequential(nn.Flatten(), line), fr.heads.Softmax("ce"))
    x, y = torch.full((2, 1, 1, 1), 0.55).double(), torch.tensor([0, 1])
    bed = testbed.Testbed(model, x, y, 3, batch=2, seed=0)
    (cell,) = cells("CWL2(initial_const={}, max_steps=50, learning_rate=0.4)", "initial_const", [1])
    (plain,), (saved,) = measured([cell], bed, NONE), measured([cell], bed)
    assert (plain.rows["clean"] == 0).all() and (plain.rows["decision"] == 2).all()
    assert saved.rows["decision"].tolist() == [1, 2]  # the first row stops early


def exact(name):
    """Columns that must be equal; rounding may cost a line search another trial."""
    return ("decision", "claimed", "success", *(["queries"] if name != "lbfgs" else []))


@pytest.mark.parametrize("name", ["cw targeted", "lbfgs", "deep", "mim", "pgd"])
def test_the_number_of_slots_changes_nothing(name):
    group = GROUPS[name]
    few, many = (measured(group, small_testbed(batch=batch)) for batch in (3, COUNT))
    for one, other in zip(few, many, strict=True):
        for column in exact(name):
            np.testing.assert_array_equal(one.rows[column], other.rows[column])
        np.testing.assert_allclose(one.rows["l2"], other.rows["l2"], atol=1e-7)


@pytest.mark.parametrize("name", GROUPS)
def test_a_cell_alone_is_what_it_is_in_its_group(name):
    bed, group = small_testbed(), GROUPS[name]
    together = measured(group, bed, first_success=False)
    for cell, one in zip(group[::2], together[::2], strict=True):
        (alone,) = measured([cell], bed, first_success=False)
        attack = attacks.from_repr(cell.attack)
        goal = bed.goal(targeted=cell.targeted, labels=cell.labels)
        labels = {"target": goal.y} if cell.targeted else {"y": goal.y}
        if cell.labels == "own" and not cell.targeted:
            labels = {}
        direct = attack.run(bed.model, bed.x, **labels, seed=bed.seed)
        for column in exact(name):
            np.testing.assert_array_equal(one.rows[column], alone.rows[column], err_msg=column)
            np.testing.assert_array_equal(one.rows[column], getattr(direct, column).numpy())
        np.testing.assert_allclose(one.images["adversarial"], direct.adv.numpy(), atol=1e-7)


def test_slots_are_refilled_and_keep_their_shape():
    class Counting:
        """Ends each row after as many updates as its index says."""

        stride = 1

        def __init__(self, uneven):
            self.sizes, self.uneven = [], uneven

        def update(self, network, state):
            self.sizes.append(len(state))
            state.iteration += 1

        def done(self, state):
            return state.invalid | (state.iteration >= state.index)

    class Numbers:
        def __init__(self):
            self.waiting = list(range(10))

        def next_rows(self, count):
            rows, self.waiting = self.waiting[:count], self.waiting[count:]
            if not rows:
                return None
            index = torch.tensor(rows)
            state = attacks.base.State(
                x0=torch.zeros(len(rows), 1), x=torch.zeros(len(rows), 1), y=index,
                sign=torch.ones(len(rows)), index=index, seed=0, iteration=index * 0,
                queries=index * 0, invalid=index < 0, stalled=index < 0,
            )  # fmt: skip
            return state, 9 - index  # ticket 0 is the last to end

        def observe(self, state, tickets):
            return ()

        def finish(self, state, tickets):
            yield from zip(tickets.tolist(), state.iteration.tolist(), strict=True)

    for uneven in (False, True):
        rule = Counting(uneven)
        assert sorted(run_continuous(rule, None, Numbers(), 4)) == [(n, 9 - n) for n in range(10)]
        # 45 updates of rows in 4 slots; in batches of 4 they would take 3 + 7 + 9 = 19 rounds.
        assert len(rule.sizes) < 19
        assert set(rule.sizes) == ({4, 2, 1} if uneven else {4})


def test_rows_of_nan_are_counted_and_cost_no_other():
    bed = small_testbed("ce")
    net = bed.model.net

    class Sometimes(nn.Module):
        def forward(self, x):
            return torch.where((x[:, 0, 0, 0] > 0.5)[:, None], torch.nan, net(x))

    bad = (bed.x[:, 0, 0, 0] > 0.5).numpy()
    broken = replace(bed, model=fr.Classifier(Sometimes(), fr.heads.Softmax("ce")).double())
    assert 3 < bad.sum() < 20
    for name in ("cw true", "cw targeted", "lbfgs", "deep", "bim", "mim"):
        healthy = measured(GROUPS[name], bed, first_success=False)
        for one, other in zip(
            measured(GROUPS[name], broken, first_success=False), healthy, strict=True
        ):
            assert one.facts["invalid"] >= bad.sum()
            assert (one.rows["decision"][bad] == -1).all() and not one.rows["success"][bad].any()
            if one.facts["invalid"] == bad.sum():
                kept = one.rows["decision"][~bad]
                np.testing.assert_array_equal(kept, other.rows["decision"][~bad])


def test_the_oracle_counts_what_it_asks():
    bed = small_testbed("ce")
    with oracle(bed.model, bed.x.device) as network:
        attack = attacks.BIM(eps=0.1, steps=3)
        goal = bed.goal(targeted=True, labels="own")
        state = attack.start(network, bed.x, goal)
        for _ in range(3):
            attack.update(network, state)
        attack.assess(network, state, bed.x)
        assert network.evaluations == (3 * 2 + 1) * COUNT


# Transfers and probes


def transfer_plan(tmp_path, **changes):
    plan, out = prepare(tmp_path, **changes)
    made = Cell(3, "MIM", "eps", 0.2, "O:SOFTMAX:CE", "MIM(eps=0.2, steps=3)")
    transferred = replace(made, table=6, model="R:TANH:MSE", source="O:SOFTMAX:CE")
    return replace(plan, cells=(transferred, made)), out


def test_a_transfer_classifies_the_images_of_another_classifier(tmp_path):
    plan, out = transfer_plan(tmp_path)
    outcome = runner.run(plan, out)
    assert (outcome.measured, outcome.failed) == (2, [])
    run = results.read(out)
    transferred, made = run.results
    images = RunFolder(out).read_images(made.key)["adversarial"]
    assert len(images) == 18
    victim = fr.checkpoint.load(checkpoint_path(out, "R:TANH:MSE"))
    expected = victim.predict(torch.from_numpy(images)).numpy()
    np.testing.assert_array_equal(transferred.rows["decision"], expected)
    np.testing.assert_array_equal(
        transferred.rows["success"], expected != transferred.rows["label"]
    )
    np.testing.assert_array_equal(transferred.rows["claimed"], made.rows["success"])
    np.testing.assert_array_equal(transferred.rows["linf"], made.rows["linf"])
    assert runner.run(plan, out).reused == 2
    alone = replace(plan, cells=plan.cells[:1])
    outcome = runner.run(alone, tmp_path / "run")
    assert outcome.reused == 1


def test_a_transfer_without_its_source_is_refused(tmp_path):
    plan, out = transfer_plan(tmp_path)
    outcome = runner.run(replace(plan, cells=plan.cells[:1]), out)
    assert (
        len(outcome.failed) == 1
        and "must have MIM(eps=0.2, steps=3) on O:SOFTMAX:CE" in (outcome.failed[0])
    )


def test_a_search_measures_few_of_its_probes(tmp_path):
    plan, out = prepare(tmp_path)
    values = [round(0.05 * n, 2) for n in range(1, 17)]
    probes = tuple(
        Cell(1, "Madry", "eps", v, "O:SOFTMAX:CE", f"BIM(eps={v}, steps=3)", True, probe=True)
        for v in values
    )
    plan = replace(plan, cells=probes)
    outcome = runner.run(plan, out)
    assert 1 <= outcome.measured <= 5 and not outcome.failed
    assert runner.run(plan, out).measured == 0
