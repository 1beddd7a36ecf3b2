from dataclasses import replace

import numpy as np
import pytest
from fake_run import COUNT, made_up, targeted, untargeted

from fastrobust.report import flags, results
from fastrobust.runs.plan import Cell


def signs(root):
    run = results.read(root)
    return {
        (result.cell.column, result.value): [mark.sign for mark in found]
        for result, found in flags.find_flags(run).items()
    }


def test_a_larger_parameter_that_helps_the_defender_is_marked(tmp_path):
    cells = [
        (untargeted("MIM", 0.05), 60, {}),
        (untargeted("MIM", 0.1), 40, {}),  # worse than at 0.05 by 20 images: marked
        (untargeted("MIM", 0.2), 58, {}),  # by 2 images: forgiven
        (targeted("MIM", 0.2), 40, {}),  # listed before its smaller budget
        (targeted("MIM", 0.1), 60, {}),
    ]
    root = made_up(tmp_path, "digits", cells)
    assert signs(root) == {("MIM", 0.1): [flags.LARGER], ("MIM", 0.2): [flags.LARGER]}
    found = [mark.sentence for ms in flags.find_flags(results.read(root)).values() for mark in ms]
    assert "accuracy rises from 0.400 to 0.600" in found[0]
    assert "targeted success falls from 0.600 to 0.400" in found[1]


def test_what_chance_explains_is_not_marked(tmp_path):
    cells = [(untargeted("MIM", 0.05), 60, {}), (untargeted("MIM", 0.1), 55, {})]
    assert signs(made_up(tmp_path, "digits", cells)) == {}


@pytest.mark.parametrize(("count", "marked"), [(6, False), (7, True)])
def test_seven_images_that_only_the_weaker_attack_breaks_are_marked(tmp_path, count, marked):
    cells = [(untargeted("MIM", 0.05), 30 + count, {}), (untargeted("MIM", 0.1), 30, {})]
    assert bool(signs(made_up(tmp_path, "digits", cells))) == marked


def test_one_step_that_beats_many_is_marked(tmp_path):
    cells = [
        (untargeted("FGSM", 0.1), 60, {}),
        (untargeted("FGSM", 0.4), 99, {}),
        (untargeted("Madry", 0.1), 30, {}),
        (untargeted("BIM", 0.2), 40, {}),
        (untargeted("MIM", 0.05), 10, {}),  # less budget than any one-step attack
        (untargeted("MIM", 0.1, model="O:SOFTMAX:CE"), 10, {}),  # another classifier
    ]
    root = made_up(tmp_path, "digits", cells)
    assert signs(root) == {("Madry", 0.1): [flags.ONE_STEP], ("BIM", 0.2): [flags.ONE_STEP]}


def test_a_false_claim_is_marked_with_its_count(tmp_path):
    cells = [(untargeted("BIM", 0.1), 30, {"claimed": np.arange(COUNT) < 37})]
    root = made_up(tmp_path, "digits", cells)
    assert signs(root) == {("BIM", 0.1): [flags.CLAIMED]}
    (found,) = flags.find_flags(results.read(root)).values()
    assert "differ on 7 of 100 images" in found[0].sentence


def test_claims_are_marked_where_the_attack_looks_at_the_judge(tmp_path):
    claimed = {"claimed": np.arange(COUNT) < 99}
    cells = [
        (Cell(4, "clean", None, None, "R:TANH:MSE", None), 0, claimed),
        (untargeted("BIM", 0.1, source="O:SOFTMAX:CE"), 30, claimed),
    ]
    assert signs(made_up(tmp_path, "digits", cells)) == {}


def unbounded(c, model="R:TANH:MSE", **changes):
    fields = {"table": 3, "column": "CWL2", "view": "paper", **changes}
    attack = f"CWL2(initial_const={c}, view='units')"
    return Cell(parameter="initial_const", value=c, model=model, attack=attack, **fields)


def sentences(root, sign):
    found = flags.find_flags(results.read(root))
    return [mark.sentence for ms in found.values() for mark in ms if mark.sign == sign]


def test_what_survives_an_unbounded_attack_is_its_failure(tmp_path):
    cells = [
        (unbounded(0.01), 80, {}),  # accuracy 0.2 is clearly above a guess: 0.1
        (unbounded(0.1), 88, {}),  # 0.12 may be a guess
        (unbounded(1.0), 100, {}),
        (unbounded(0.01, table=6, source="O:SOFTMAX:CE"), 20, {}),  # a transfer may well fail
        (untargeted("BIM", 0.01), 5, {}),  # bounded
    ]
    (sentence,) = sentences(made_up(tmp_path, "digits", cells), flags.SURVIVORS)
    assert sentence == (
        "Without a bound accuracy stays at 0.200, a guess has 0.100. CWL2 at initial_const = 1 "
        "leaves 0.000."
    )


def test_targets_missed_at_any_distance_are_marked_where_a_rival_reaches_them(tmp_path):
    own = {"table": 5, "targeted": True}
    cells = [
        (unbounded(0.01, **own), 40, {}),
        (unbounded(0.1, **own), 98, {}),  # two images behind: forgiven
        (unbounded(0.01, model="O:SOFTMAX:CE", **own), 40, {}),  # nothing does better
        (replace(targeted("PGD", 0.1), view="class"), 100, {}),
    ]
    (sentence,) = sentences(made_up(tmp_path, "digits", cells), flags.SURVIVORS)
    assert sentence == (
        "Without a bound only 0.400 reach their target. PGD in class view at eps = 0.1 reaches "
        "1.000."
    )


@pytest.mark.parametrize(("broken", "marked"), [(60, True), (33, False), (10, False)])
def test_a_transfer_that_beats_the_white_box_is_marked_on_both(tmp_path, broken, marked):
    cells = [
        (untargeted("MIM", 0.1), 30, {}),
        (untargeted("MIM", 0.2), 30, {}),
        (untargeted("MIM", 0.1, table=6, source="O:SOFTMAX:CE"), broken, {}),
    ]
    root = made_up(tmp_path, "digits", cells)
    found = [
        (result.cell.table, result.value, [mark.sign for mark in marks_])
        for result, marks_ in flags.find_flags(results.read(root)).items()
    ]
    wanted = [(6, 0.1, [flags.TRANSFER]), (3, 0.1, [flags.TRANSFER])] if marked else []
    assert found == wanted
    if marked:
        assert sentences(root, flags.TRANSFER)[0] == (
            "Made on O:SOFTMAX:CE, MIM at eps = 0.1 brings R:TANH:MSE to accuracy 0.400; made on "
            "R:TANH:MSE itself, to 0.700."
        )
