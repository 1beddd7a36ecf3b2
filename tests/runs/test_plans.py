import json

import pytest

from fastrobust.paper import presets
from fastrobust.runs.plan import Cell, Plan


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
        ({"precision": "fp16"}, "precision must be one of fp32, tf32, bf16, got 'fp16'"),
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
