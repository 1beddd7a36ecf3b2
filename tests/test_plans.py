import json

import pytest

from fastrobust import attacks, paper, presets
from fastrobust.plans import Cell, Plan
from fastrobust.train import MODEL_NAMES


@pytest.mark.parametrize("preset", presets.PRESETS)
@pytest.mark.parametrize(
    ("table", "columns"), [(3, "MIM BIM FGSM Madry"), (5, "BIM Madry MIM FGSM")]
)
def test_the_papers_columns_are_whole(preset, table, columns):
    plan = presets.make(preset, "mnist", tables=[table])
    for model in MODEL_NAMES:
        cells = [c for c in plan.cells if c.model == model and c.view == "paper"]
        assert list(dict.fromkeys(c.column for c in cells)) == columns.split()
        for cell in cells:
            assert paper.lookup(table, "mnist", model, cell.column, cell.value) is not None
            assert cell.labels == "own" and cell.targeted == (table == 5)
            attack = attacks.from_repr(cell.attack)
            assert (attack.eps, attack.loss, attack.clip) == (cell.value, "train", (0, 1))


# Table 2 of the paper, in our names.
@pytest.mark.parametrize(
    ("column", "constants"),
    [
        ("BIM", {"step_size": 0.05, "steps": 10}),
        ("MIM", {"step_size": 0.06, "steps": 10, "decay": 1.0, "label_sum_norm": False}),
        ("Madry", {"step_size": 0.01, "steps": 40, "random_start": True, "keep": "last"}),
    ],
)
def test_the_papers_constants(column, constants):
    for cell in presets.make("paper", "mnist").cells:
        if cell.column == column:
            attack = attacks.from_repr(cell.attack)
            assert {name: getattr(attack, name) for name in constants} == constants


def test_an_honest_neighbour_stands_beside_the_paper():
    cells = [c for c in presets.make("quick").cells if c.view == "class"]
    assert {c.table for c in cells} == {3, 5}
    assert all(c.labels == ("true" if c.table == 3 else "own") for c in cells)
    assert all(attacks.from_repr(c.attack).keep == "best" for c in cells)


def test_presets_and_choices():
    assert presets.make("quick").limit == 200 and presets.make("paper").limit is None
    assert presets.make("quick", limit=5).limit == 5
    assert presets.make("quick").net == "digits"
    assert presets.make("quick", "cifar10").net == "40-12"
    assert presets.make("quick", "cifar10", net="100-12").net == "100-12"
    assert {c.table for c in presets.make("quick", tables=[5, 4]).cells} == {4, 5}
    assert presets.make("quick", tables=[4]).models == MODEL_NAMES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "slow"}, "preset must be one of .*got 'slow'"),
        ({"preset": "quick", "tables": [3, 8]}, r"tables must be among .*got \[8\]"),
        ({"preset": "quick", "limit": 0}, "limit must be an integer >= 1, got 0"),
        ({"preset": "quick", "seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"preset": "quick", "tables": []}, "cells must name at least one cell"),
    ],
)
def test_bad_choices(arguments, words):
    with pytest.raises(ValueError, match=words):
        presets.make(**arguments)


def test_a_plan_is_plain_data(tmp_path):
    plan = presets.make("paper", "mnist")
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan.to_json()))
    assert Plan.read(path) == plan


GOOD = Plan(
    "digits", "mine", "digits", (Cell(3, "BIM", "eps", 0.1, "A", "BIM(eps=0.1)"),)
).to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cells": [{**GOOD["cells"][0], "attack": "BIM(epsilon=1)"}]}, "plan, cell 1: "),
        ({"cells": [{**GOOD["cells"][0], "attack": "__import__('os')"}]}, "plan, cell 1: "),
        ({"cells": [{**GOOD["cells"][0], "view": "x"}]}, "cell 1: view must be one of"),
        ({"cells": [{**GOOD["cells"][0], "labels": "x"}]}, "cell 1: labels must be one of"),
        ({"cells": [{**GOOD["cells"][0], "targeted": 1}]}, "cell 1: targeted must be"),
        ({"cells": [{**GOOD["cells"][0], "table": "3"}]}, "cell 1: table must be an integer"),
        ({"cells": [{**GOOD["cells"][0], "value": "x"}]}, "cell 1: value must be a number"),
        ({"cells": [{**GOOD["cells"][0], "attack": None, "targeted": True}]}, "clean images"),
        ({"cells": [{**GOOD["cells"][0], "probe": 1}]}, "cell 1: probe must be true or false"),
        ({"cells": [{**GOOD["cells"][0], "probe": True, "value": None}]}, "number in a probe"),
        ({"cells": [{**GOOD["cells"][0], "attack": None, "probe": True}]}, "probe must be false"),
        ({"cells": [{**GOOD["cells"][0], "source": 1}]}, "source must be a classifier's name"),
        ({"cells": [{**GOOD["cells"][0], "source": "A"}]}, "source must be another .*got 'A'"),
        ({"cells": [{**GOOD["cells"][0], "attack": None, "source": "B"}]}, "source must be null"),
        ({"cells": [{**GOOD["cells"][0], "row": 1}]}, r"cell: fields must be among .*\['row'\]"),
        ({"cells": [{"table": 3}]}, r"fields must be given: \['attack', "),
        ({"cells": [3]}, "a cell must be a JSON object, got int"),
        ({"cells": {}}, "cells must be a list"),
        ({"limit": 2.5}, "limit must be an integer"),
        ({"batch": "7"}, "batch must be an integer"),
        ({"shape": 1}, r"plan: fields must be among .*got \['shape'\]"),
    ],
)
def test_bad_plans_say_what_is_wrong(change, words):
    with pytest.raises(ValueError, match=words):
        Plan.from_json({**GOOD, **change})


def test_an_old_plan_still_reads():
    cell = {name: GOOD["cells"][0][name] for name in GOOD["cells"][0]}
    del cell["source"], cell["probe"]
    assert Plan.from_json({**GOOD, "cells": [cell]}) == Plan.from_json(GOOD)


def test_a_source_is_one_of_the_models():
    cells = (
        Cell(6, "BIM", "eps", 0.1, "B", "BIM(eps=0.1)", source="A"),
        Cell(3, "BIM", "eps", 0.1, "C", "BIM(eps=0.1)"),
    )
    assert Plan("digits", "mine", "digits", cells).models == ("A", "B", "C")


def test_a_plan_file_that_is_no_json(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json must hold a plan in JSON"):
        Plan.read(tmp_path / "plan.json")
