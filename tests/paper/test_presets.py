import json
from importlib import resources

import pytest

from fastrobust import attacks
from fastrobust.paper import presets
from fastrobust.paper import printed as paper
from fastrobust.train.classifiers import MODEL_NAMES


def printed(data_set):
    """Yield table, model, column and value of every number that the paper prints for a data set."""
    text = resources.files("fastrobust.paper").joinpath("tables.json").read_text()
    for record in json.loads(text)["rows"]:
        if record["data_set"] == data_set:
            for value in record["values"]:
                yield record["table"], record["model"], record["attack"], value


@pytest.mark.parametrize("preset", presets.PRESETS)
@pytest.mark.parametrize("data_set", paper.DATA_SETS)
def test_every_number_of_the_paper_has_one_cell(preset, data_set):
    cells = presets.make(preset, data_set).cells
    keys = [(c.table, c.model, c.column, c.value) for c in cells if c.view == "paper"]
    wanted = list(printed(data_set))
    assert len(wanted) == 161
    assert [keys.count(key) for key in wanted] == [1] * 161
    looked_up = [k for k in keys if paper.lookup(k[0], data_set, *k[1:]) is not None]
    assert sorted(looked_up, key=str) == sorted(wanted, key=str)


def attacks_of(column, table, view="paper", preset="paper"):
    cells = presets.make(preset, "mnist", tables=[table]).cells
    chosen = [c for c in cells if (c.column, c.view) == (column, view)]
    assert chosen
    return [(cell, attacks.from_repr(cell.attack)) for cell in chosen]


# Table 2 of the paper in our names, and what cleverhans v2.1.0 and the published code add to it.
SIGN = {"clip": (0, 1), "loss": "train"}
LITERAL = {"binary_search_steps": 5, "max_steps": 1000, "on_failure": "clean"}
CW = {**LITERAL, "learning_rate": 0.01, "abort_from": 1e6, "confidence": 0.0, "abort_early": True}


@pytest.mark.parametrize(
    ("column", "tables", "constants"),
    [
        ("FGSM", [3, 5], SIGN),
        ("BIM", [3, 5], {**SIGN, "step_size": 0.05, "steps": 10}),
        ("BIM, CE on units", [3, 5], {"step_size": 0.05, "steps": 10, "loss": "units-ce"}),
        ("MIM", [3, 5, 6], {**SIGN, "step_size": 0.06, "steps": 10, "label_sum_norm": False}),
        ("MIM, label / sum", [3, 5], {**SIGN, "decay": 1.0, "label_sum_norm": True}),
        ("Madry", [3, 5, 1], {**SIGN, "step_size": 0.01, "steps": 40, "random_start": True,
                              "keep": "last"}),
        ("DeepFool", [3, 6], {"candidates": 10, "overshoot": 0.02, "view": "units"}),
        ("DeepFool, logits", [3], {"candidates": 10, "overshoot": 0.02, "view": "class"}),
        ("CWL2", [3, 5, 6, 7], {**CW, "view": "units"}),
        ("CWL2, logits", [3, 5], {**CW, "view": "class"}),
        ("modified CWL2", [7, 8], {**CW, "metric": "euclidean"}),
        ("L-BFGS", [5], {**LITERAL, "loss": "train", "view": "units"}),
    ],
)  # fmt: skip
def test_the_papers_constants(column, tables, constants):
    for table in tables:
        for cell, attack in attacks_of(column, table):
            assert {name: getattr(attack, name) for name in constants} == constants
            assert getattr(attack, cell.parameter) == cell.value
            assert cell.labels == "own"
            targeted = table in (1, 5, 7) or column == "modified CWL2"
            assert cell.targeted == targeted


@pytest.mark.parametrize(
    ("column", "table", "constants"),
    [
        (presets.PGD_ON_SCORES, 3, {"loss": "ce", "keep": "best"}),
        (presets.PGD_ON_SCORES, 5, {"loss": "ce", "keep": "best"}),
        ("DeepFool", 3, {"view": "class"}),
        ("CWL2", 3, {"view": "class", "learning_rate": 0.01, "on_failure": "best"}),
        ("CWL2", 5, {"view": "class", "learning_rate": 0.01, "on_failure": "best"}),
        ("L-BFGS", 5, {"view": "class", "loss": "ce", "on_failure": "best"}),
    ],
)
def test_each_table_has_attacks_on_class_scores(column, table, constants):
    made = attacks_of(column, table, "class")
    for cell, attack in made:
        assert {name: getattr(attack, name) for name in constants} == constants
        assert cell.labels == ("true" if table == 3 else "own")
    like = "BIM" if column == presets.PGD_ON_SCORES else column
    assert [(c.model, c.value) for c, _ in made] == [
        (c.model, c.value) for c, _ in attacks_of(like, table)
    ]


def test_other_readings_are_run_where_they_differ():
    cells = presets.make("quick").cells
    assert {c.model for c in cells if c.column == "MIM, label / sum"} == {"R:TANH:MSE"}
    assert {c.model for c in cells if c.column.endswith(", logits")} == {"O:SOFTMAX:MSE"}


def test_transfers_are_cells_of_table_3_seen_by_a_victim():
    plan = presets.make("quick")
    sources = {
        (c.attack, c.labels, c.targeted, c.column, c.value)
        for c in plan.cells
        if (c.table, c.model) == (3, "O:SOFTMAX:CE")
    }
    transfers = [c for c in plan.cells if c.table == 6]
    for cell in transfers:
        assert cell.source == "O:SOFTMAX:CE"
        assert (cell.attack, cell.labels, cell.targeted, cell.column, cell.value) in sources
    assert {c.model for c in transfers} == {"O:SOFTMAX:MSE", "R:TANH:MSE"}
    assert all(c.source is None for c in plan.cells if c.table != 6)
    alone = presets.make("quick", tables=[6])
    assert alone.models[0] == "O:SOFTMAX:CE"
    white_box = [c for c in alone.cells if c.table == 3]
    places = {(c.attack, c.model, c.view) for c in white_box}
    assert len(white_box) == len(places) == 9  # the source, and both victims to compare with
    for cell in transfers:
        assert {(cell.attack, m, "paper") for m in (cell.source, cell.model)} <= places
    assert set(white_box) <= set(plan.cells)


def test_the_ablation_shares_the_cells_of_the_paper_s_own_length():
    plan = presets.make("quick")
    ablation = [c for c in plan.cells if c.table == 8]
    names = ["R:TANH:MSE:64", "R:TANH:MSE", "R:TANH:MSE:256", "R:TANH:MSE:1024"]
    assert list(dict.fromkeys(c.model for c in ablation)) == names
    assert {c.value for c in ablation} == {None, 0.1}

    def measured(cell):
        return cell.attack, cell.model, cell.labels, cell.targeted, cell.source

    others = {measured(c) for c in plan.cells if c.table != 8}
    assert all(measured(c) in others for c in ablation if c.model == "R:TANH:MSE")
    per_model = [sorted(c.column for c in ablation if c.model == name) for name in names]
    assert (
        per_model
        == [sorted([paper.CLEAN, "MIM", "BIM", presets.PGD_ON_SCORES, "modified CWL2"])] * 4
    )


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_other_defences_meet_the_papers_attacks(preset):
    plan = presets.make(preset)
    table = [c for c in plan.cells if c.table == 9]
    others = ["O:LINEAR:MSE", "O:TANH:MSE", "O:SOFTMAX:CE:PGD"]
    assert list(dict.fromkeys(c.model for c in table)) == [*MODEL_NAMES, *others]
    columns = [(c.column, c.view, c.value) for c in table if c.model == others[0]]
    assert sorted(columns, key=str) == sorted([
        (paper.CLEAN, "paper", None),
        *((name, "paper", eps) for name in ("FGSM", "BIM", "MIM", "Madry") for eps in (0.1, 0.2)),
        *((presets.PGD_ON_SCORES, "class", eps) for eps in (0.1, 0.2)),
        *(("DeepFool", view, 40) for view in ("paper", "class")),
        *(("CWL2", view, 10) for view in ("paper", "class")),
    ], key=str)  # fmt: skip
    for model in (*MODEL_NAMES, *others):
        assert [(c.column, c.view, c.value) for c in table if c.model == model] == columns
    # On the paper's classifiers nothing is measured twice, but for an eps that Madry's grid lacks.

    def measured(cell):
        return cell.attack, cell.model, cell.targeted, cell.labels

    known = {measured(c) for c in plan.cells if c.table != 9}
    new = [c for c in table if c.model in MODEL_NAMES and measured(c) not in known]
    assert [(c.column, c.value) for c in new] == [("Madry", 0.2)] * 3


def test_figure_3_shows_the_nearest_images():
    cells = presets.make("quick").cells
    (cell,) = (c for c in cells if c.distances)
    assert (cell.table, cell.column, cell.value, cell.model) == (
        7,
        "modified CWL2",
        0.1,
        "R:TANH:MSE",
    )


def test_the_probes_of_figure_1_hold_what_the_paper_found():
    plan = presets.make("quick", tables=[1])
    assert all(c.probe and c.targeted for c in plan.cells)
    for model in ("O:SOFTMAX:CE", "R:TANH:MSE"):
        values = [c.value for c in plan.cells if c.model == model]
        assert values == [0.01, 0.02, 0.03, 0.04, 0.05, *(n / 20 for n in range(2, 21))]
    assert not any(c.probe for c in presets.make("quick", tables=[3, 4, 5, 6, 7, 8, 9]).cells)


def test_cheap_cells_come_first():
    kinds = [(c.attack or "").partition("(")[0] for c in presets.make("paper").cells]
    order = list(dict.fromkeys(kinds))
    assert order[-4:] == ["DeepFool", "CWL2", "ModifiedCWL2", "LBFGS"]
    expensive = [kind for kind in kinds if kind in order[-4:]]
    assert expensive == sorted(expensive, key=order.index) == kinds[-len(expensive) :]


def test_presets_and_choices():
    assert presets.make("quick").limit == 120 and presets.make("paper").limit is None
    assert presets.make("quick", limit=5).limit == 5
    assert presets.make("quick").net == "digits"
    assert presets.make("quick", "cifar10").net == "40-12"
    assert presets.make("quick", "cifar10", net="100-12").net == "100-12"
    assert {c.table for c in presets.make("quick", tables=[5, 4]).cells} == {4, 5}
    assert presets.make("quick", tables=[4]).models == MODEL_NAMES
    assert presets.make("quick").models[:3] == MODEL_NAMES


def test_a_preset_says_how_long_it_optimises():
    quick, paper_s = (presets.make(name) for name in ("quick", "paper"))
    assert "5 x 70 steps with learning rate 0.05" in quick.notes[-1]
    assert "L-BFGS at most 5 x 40" in quick.notes[-1] and "first look" in quick.notes[-1]
    assert "5 x 1000 steps with learning rate 0.01" in paper_s.notes[-1]
    for cell in quick.cells:
        kind = (cell.attack or "").partition("(")[0]
        if kind in ("CWL2", "ModifiedCWL2"):
            attack = attacks.from_repr(cell.attack)
            assert (attack.max_steps, attack.learning_rate) == (70, 0.05)
        if kind == "LBFGS":
            assert attacks.from_repr(cell.attack).max_steps == 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "slow"}, "preset must be one of .*got 'slow'"),
        ({"preset": "quick", "tables": [3, 10]}, r"tables must be among .*got \[10\]"),
        ({"preset": "quick", "limit": 0}, "limit must be an integer >= 1, got 0"),
        ({"preset": "quick", "seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"preset": "quick", "tables": []}, "cells must name at least one cell"),
    ],
)
def test_bad_choices(arguments, words):
    with pytest.raises(ValueError, match=words):
        presets.make(**arguments)


def test_only_some_attacks_and_always_the_clean_images():
    cells = presets.make("cpu", "mnist", tables=[3, 4, 6], only=["PGD", "DeepFool"]).cells
    kinds = {(cell.attack or "").partition("(")[0] for cell in cells}
    assert kinds == {"", "PGD", "DeepFool"}
    full = presets.make("cpu", "mnist", tables=[3, 4, 6]).cells
    assert cells == tuple(c for c in full if (c.attack or "").partition("(")[0] in kinds)
    with pytest.raises(ValueError, match="attacks must be among .*FGSM.*, got Pgd"):
        presets.make("cpu", "mnist", only=["Pgd"])


def test_a_copy_has_the_recipe_and_the_numbers_of_what_it_is_like(tmp_path):
    plan = presets.make("cpu", "npz:copy.npz", like="cifar10")
    assert (plan.data_set, plan.known_as, plan.net) == ("npz:copy.npz", "cifar10", "40-12")
    assert presets.make("cpu", "mnist").known_as == "mnist"
    with pytest.raises(ValueError, match="like must be one of digits, mnist, .*, got 'npz:x'"):
        presets.make("cpu", "mnist", like="npz:x")
