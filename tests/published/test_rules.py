"""The rules: silent on a table that is consistent, each loud on its planted contradiction."""

import json
from dataclasses import replace
from importlib import resources

import pytest

from fastrobust.published import reading, rules
from fastrobust.published.numbers import Number, Tables

EPS = (0.01, 0.05, 0.1, 0.2)
IMAGES = 1000


def consistent():
    """Invent what attacks of growing strength find on one classifier that has no secrets."""
    base = Number("mnist", "net", "clean", 0.95, eps=0.0, table="Table 1")
    numbers = [base]
    curves = {  # accuracy left at EPS: a single step, ten, forty
        ("FGSM", 1): (0.90, 0.70, 0.50, 0.30),
        ("BIM", 10): (0.89, 0.55, 0.25, 0.02),
        ("PGD", 40): (0.88, 0.50, 0.20, 0.00),
    }
    for (attack, steps), left in curves.items():
        for eps, accuracy in zip(EPS, left, strict=True):
            bounded = replace(base, attack=attack, rate=accuracy, eps=eps, steps=steps)
            reached = replace(bounded, setting="targeted", rate=round(0.8 * (0.95 - accuracy), 3))
            copied = replace(bounded, setting="transfer", rate=round(0.5 * (0.95 + accuracy), 3))
            numbers += [bounded, reached, copied]
    for c, left, reached in ((0.01, 0.09, 0.92), (0.1, 0.05, 0.97), (1.0, 0.0, 1.0)):
        free = replace(base, attack="CWL2", rate=left, eps=None, c=c, steps=1000)
        numbers += [free, replace(free, setting="targeted", rate=reached)]
    for steps, left in ((10, 0.06), (40, 0.05)):
        numbers.append(replace(base, attack="DeepFool", rate=left, eps=None, steps=steps))
    return [replace(number, images=IMAGES) for number in numbers]


def planted(numbers=None, **changes):
    """Return the consistent numbers with some replaced: by "attack, eps or c, setting" a rate."""
    rates = {place: rate for place, rate in changes.pop("rates").items()}
    found = []
    for number in numbers or consistent():
        place = (number.attack, number.c or number.eps or number.steps, number.setting)
        rate = rates.pop(place, None)
        found.append(number if rate is None else replace(number, rate=rate, **changes))
    assert not rates, f"no such number: {rates}"
    return found


def find(numbers, rule=None):
    return rules.contradictions(Tables(tuple(numbers)), rule)


def test_a_consistent_table_raises_nothing():
    assert find(consistent()) == []


# Rule, the number that is planted, and what speaks against it: its place, and its rate.
PLANTED = [
    ("one-step", ("PGD", 0.1, "untargeted"), 0.60, ("FGSM", 0.1), 0.50),
    ("one-step", ("PGD", 0.2, "targeted"), 0.10, ("FGSM", 0.2), 0.52),
    ("weaker", ("PGD", 0.1, "untargeted"), 0.40, ("BIM", 0.1), 0.25),
    ("weaker", ("CWL2", 0.1, "untargeted"), 0.20, ("PGD", 0.2), 0.00),
    ("targeted", ("BIM", 0.1, "untargeted"), 0.62, ("BIM", 0.1), 0.56),
    ("targeted", ("DeepFool", 40, "untargeted"), 0.35, ("PGD", 0.2), 0.76),
    ("transfer", ("FGSM", 0.1, "untargeted"), 0.80, ("FGSM", 0.1), 0.725),
    ("larger", ("FGSM", 0.2, "untargeted"), 0.60, ("FGSM", 0.1), 0.50),
    ("larger", ("CWL2", 1.0, "targeted"), 0.89, ("CWL2", 0.1), 0.97),
    ("survivors", ("CWL2", 0.01, "untargeted"), 0.15, None, None),
    ("survivors", ("CWL2", 0.01, "targeted"), 0.70, None, None),
    ("above-clean", ("FGSM", 0.01, "transfer"), 0.99, ("clean", 0.0), 0.95),
]


@pytest.mark.parametrize(("rule", "place", "rate", "against", "theirs"), PLANTED)
def test_each_rule_finds_its_contradiction(rule, place, rate, against, theirs):
    (found,) = (s for s in find(planted(rates={place: rate}), rule) if s.severity == "fail")
    attack, budget, setting = place
    assert (found.number.attack, found.number.setting, found.number.rate) == (attack, setting, rate)
    assert budget in (found.number.eps, found.number.c, found.number.steps)
    assert found.number.words in found.sentence and f"{rate:.3f}" in found.sentence
    if against is None:
        assert found.witness is None and found.chance is None
    else:
        assert (found.witness.attack, found.witness.eps or found.witness.c or 0.0) == against
        assert found.witness.rate == theirs and found.chance < 0.01
        assert f"{theirs:.3f}" in found.sentence


@pytest.mark.parametrize(
    ("rule", "place", "rate"),
    [
        ("one-step", ("PGD", 0.1, "untargeted"), 0.53),
        ("weaker", ("PGD", 0.1, "untargeted"), 0.27),
        ("targeted", ("PGD", 0.1, "untargeted"), 0.42),
        ("larger", ("FGSM", 0.2, "untargeted"), 0.53),
        ("above-clean", ("FGSM", 0.01, "transfer"), 0.96),
    ],
)
def test_what_chance_may_do_is_a_warning(rule, place, rate):
    numbers = planted(rates={place: rate})
    (found,) = (s for s in find(numbers, rule) if s.number.rate == rate)
    assert found.severity == "warn" and 0.01 < found.chance < 0.5
    assert f"chance may explain it (p = {found.chance:.2f})" in found.sentence
    many = [replace(number, images=100_000) for number in numbers]
    (found,) = (s for s in find(many, rule) if s.number.rate == rate)
    assert found.severity == "fail" and "chance" not in found.sentence


def test_as_many_steps_are_not_weaker():
    base = Number("mnist", "net", "BIM", 0.3, eps=0.1, steps=10)
    assert find([base, replace(base, attack="MIM", rate=0.5)]) == []
    assert find([replace(base, steps=None), replace(base, attack="PGD", rate=0.5)]) == []


def test_clean_accuracy_is_no_attack_that_beats_another():
    clean = Number("mnist", "net", "clean", 0.5, eps=0.0)
    found = find([clean, Number("mnist", "net", "CWL2", 0.9, c=1.0, steps=1000)])
    assert [s.rule for s in found] == ["survivors", "above-clean"]


def test_few_survivors_may_be_lucky_guesses():
    lucky = Number("mnist", "net", "CWL2", 0.12, c=1.0)
    assert find([lucky]) == []
    assert len(find([replace(lucky, images=10_000)])) == 1


def test_what_the_third_decimal_rounds_away_is_nothing():
    numbers = [Number("mnist", "net", "FGSM", 0.995, eps=eps, steps=1, images=10**7) for eps in EPS]
    numbers[2] = replace(numbers[2], rate=0.996)
    assert find(numbers, "larger") == []
    numbers[2] = replace(numbers[2], rate=0.997)
    assert [s.number for s in find(numbers, "larger")] == [numbers[2]]


def test_a_transfer_that_ties_is_a_warning():
    def pair(white_box, copied):
        rates = {("BIM", 0.05, "untargeted"): white_box, ("BIM", 0.05, "transfer"): copied}
        return [(s.severity, s.number.rate) for s in find(planted(rates=rates), "transfer")]

    assert pair(0.55, 0.75) == pair(0.55, 0.58) == []
    assert pair(0.55, 0.56) == pair(0.55, 0.54) == pair(0.55, 0.52) == [("warn", 0.55)]
    assert pair(0.55, 0.45) == [("fail", 0.55)]
    assert pair(0.945, 0.945) == []  # the attack does nothing yet: 0.95 are right without it


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"c": (0.01, 0.1, 1.0), "steps": (1000,)}, ["plateau"]),
        ({"c": (0.1, 0.2, 0.3), "steps": (1000,)}, []),  # not four times
        ({"c": (0.1, 1.0), "steps": (1000,)}, []),  # two numbers are no plateau
        ({"steps": (10, 20, 40)}, ["plateau"]),
        ({"eps": (0.05, 0.1, 0.2), "steps": (40,)}, ["plateau"]),
        ({"eps": (0.1,), "steps": (10, 20, 40)}, []),  # it has converged
    ],
)
def test_a_plateau_is_a_warning(changes, wanted):
    names, grids = zip(*changes.items(), strict=True)
    count = max(map(len, grids))
    points = zip(*(grid * (count // len(grid)) for grid in grids), strict=True)
    rates = (0.42, 0.415, 0.41)
    numbers = [
        Number("mnist", "net", "A", rate, **dict(zip(names, point, strict=True)))
        for rate, point in zip(rates, points, strict=False)
    ]
    numbers.append(Number("mnist", "net", "clean", 0.95, eps=0.0))
    found = find(numbers, "plateau")
    assert [s.rule for s in found] == wanted
    if found:
        assert found[0].severity == "warn"
        assert (found[0].number, found[0].witness) == (numbers[count - 1], numbers[0])
    for low in (0.09, 0.95):  # no more than a guess, or no less than without the attack
        flat = [n if n.clean else replace(n, rate=low) for n in numbers]
        bounded = "eps" in changes
        assert find(flat, "plateau") == [] or (low == 0.95 and not bounded)


def row(*rates, **changes):
    """Return a bounded attack at growing eps."""
    return [
        Number("mnist", "net", "PGD", rate, eps=0.01 * 2**k, steps=40, **changes)
        for k, rate in enumerate(rates)
    ]


def test_a_plateau_lasts_to_the_end_of_its_row():
    (found,) = find(row(0.8, 0.42, 0.42, 0.41, 0.41), "plateau")
    assert (found.witness.eps, found.number.eps) == (0.02, 0.16)
    assert find(row(0.42, 0.42, 0.41, 0.3), "plateau") == []


def test_a_plateau_is_of_an_attack_that_does_something():
    assert find(row(0.05, 0.05, 0.05, setting="targeted"), "plateau") != []
    assert find(row(0.01, 0.01, 0.01, setting="targeted"), "plateau") == []
    assert find(row(0.42, 0.42, 0.42, setting="transfer"), "plateau") == []


def test_one_measurement_with_two_numbers():
    one = Number("mnist", "net", "CWL2", 0.40, c=1.0, table="Table 2")
    other = replace(one, rate=0.50, table="Table 4")
    (found,) = find([one, other], "twice")
    assert found.number is other and found.sentence.endswith("and 0.400 in Table 2.")
    assert find([one, replace(one, table="Table 4")], "twice") == []


@pytest.mark.parametrize(
    "changes",
    [{"model": "other"}, {"data": "other"}, {"norm": "l2"}, {"setting": "targeted", "rate": 0.03}],
)
def test_only_like_is_compared_with_like(changes):
    single = Number("mnist", "net", "FGSM", 0.33, eps=0.2, steps=1)
    many = Number("mnist", "net", "PGD", 0.97, eps=0.2, steps=40)
    assert [s.rule for s in find([single, many])] == ["one-step"]
    assert find([replace(single, **changes), many]) == []
    assert find([replace(single, eps=0.3), many]) == []


def test_a_transfer_may_well_fail():
    numbers = [
        Number("mnist", "net", "FGSM", 0.33, "transfer", eps=0.2, steps=1),
        Number("mnist", "net", "PGD", 0.97, "transfer", eps=0.2, steps=40),
        Number("mnist", "net", "CWL2", 0.98, "transfer", c=1.0, steps=1000),
    ]
    assert find(numbers) == []


def test_unknown_rules_and_too_few_classes_are_errors():
    with pytest.raises(ValueError, match="rule must be one of one-step, .*, got 'luck'"):
        find(consistent(), "luck")
    with pytest.raises(ValueError, match="classes must be >= 2, got 1"):
        Tables((), 1)


def test_more_classes_leave_a_guess_less():
    number = Number("cifar100", "net", "CWL2", 0.08, c=1.0)
    assert rules.contradictions(Tables((number,), 10)) == []
    assert [s.rule for s in rules.contradictions(Tables((number,), 100))] == ["survivors"]


# The paper's own tables.


@pytest.fixture(scope="module")
def paper():
    return {images: Tables(reading.read("paper", images)) for images in (1000, 10_000)}


def against(tables, rule, table, data, model, attack, setting="untargeted", **parameters):
    """Return what one rule says against one of the paper's numbers."""
    found = [
        s
        for s in rules.contradictions(tables, rule)
        if (s.number.table, s.number.data, s.number.model) == (f"Table {table}", data, model)
        and (s.number.attack, s.number.setting) == (attack, setting)
        and all(getattr(s.number, name) == value for name, value in parameters.items())
    ]
    (one,) = found
    return one


TANH = "R:TANH:MSE"


@pytest.mark.parametrize(
    ("data", "rates"), [("mnist", (0.973, 0.332)), ("fashion_mnist", (0.568, 0.185))]
)
def test_papers_single_step_beats_mim(paper, data, rates):
    found = against(paper[1000], "one-step", 3, data, TANH, "MIM", eps=0.2)
    assert found.severity == "fail" and (found.number.rate, found.witness.rate) == rates
    assert found.witness.attack == "FGSM"


def test_papers_bim_beats_madry(paper):
    found = against(paper[1000], "weaker", 3, "cifar10", TANH, "Madry", eps=0.1)
    assert found.severity == "fail" and (found.number.rate, found.witness.rate) == (0.839, 0.390)
    assert (found.witness.attack, paper[1000].bound(found.number)) == ("BIM", 0.390)


@pytest.mark.parametrize(("images", "severity"), [(1000, "warn"), (10_000, "fail")])
def test_papers_success_falls_with_c(paper, images, severity):
    column = (5, "cifar10", TANH, "CWL2", "targeted")
    found = against(paper[images], "larger", *column, c=10)
    assert (found.number.rate, found.witness.rate) == (0.346, 0.368)
    assert found.severity == severity
    assert against(paper[images], "survivors", *column, c=1).number.rate == 0.361


def test_papers_unbounded_attacks_leave_survivors(paper):
    rates = [
        [against(paper[1000], "survivors", 3, "mnist", TANH, attack, **{name: v}).number.rate
         for v in values]
        for attack, name, values in (
            ("CWL2", "c", (0.01, 0.1, 1, 10)), ("DeepFool", "steps", (10, 20, 30, 40)),
        )
    ]  # fmt: skip
    assert rates == [[0.995, 0.995, 0.975, 0.983], [0.815] * 4]
    flat = against(paper[1000], "plateau", 3, "mnist", TANH, "DeepFool", steps=40)
    assert flat.severity == "warn" and flat.witness.steps == 10


def test_papers_transfer_ties_with_the_white_box(paper):
    found = against(paper[1000], "transfer", 3, "fashion_mnist", "O:SOFTMAX:MSE", "MIM", eps=0.01)
    assert (found.severity, found.number.rate, found.witness.rate) == ("warn", 0.836, 0.839)


def test_papers_targeted_madry_beats_the_untargeted(paper):
    found = against(paper[1000], "targeted", 3, "fashion_mnist", TANH, "Madry", eps=0.1)
    assert (found.severity, found.number.rate, found.witness.rate) == ("fail", 0.802, 0.834)


def test_no_number_is_accused_that_is_below_a_guess(paper):
    assert all(s.number.defended > 0.1 for s in rules.contradictions(paper[10_000]))


def bounds_by_hand():
    """Read off the paper's file what bounds every accuracy of Table 3 within an eps."""
    rows = json.loads(resources.files("fastrobust").joinpath("paper/tables.json").read_text())
    cells = [
        (row["table"], row["data_set"], row["model"], row["attack"], row["parameter"], value, rate)
        for row in rows["rows"]
        for value, rate in zip(row["values"], row["results"], strict=True)
    ]
    for table, data, model, attack, parameter, eps, rate in cells:
        if table != 3 or parameter != "eps":
            continue
        limits = [1.0]
        for other_table, *place, other, name, value, found in cells:
            if place != [data, model] or (other_table, other, value) == (3, attack, eps):
                continue
            if other_table == 4:
                limits.append(found)
            elif name == "eps" and value <= eps:
                limits.append({3: found, 5: 1 - found, 6: found}[other_table])
        yield (data, model, attack, eps), min(limits) if min(limits) < rate else None


def test_bounds_are_those_read_off_by_hand(paper):
    numbers = {
        (n.data, n.model, n.attack, n.eps): paper[1000].bound(n)
        for n in paper[1000].numbers
        if n.table == "Table 3" and n.bounded
    }
    by_hand = dict(bounds_by_hand())
    assert len(by_hand) == 144 and numbers.keys() == by_hand.keys()
    for place, bound in by_hand.items():
        assert numbers[place] == (None if bound is None else pytest.approx(bound)), place


def test_bounds_of_a_targeted_success_and_of_a_transfer():
    base = Number("mnist", "net", "PGD", 0.3, eps=0.1, steps=40)
    aimed = replace(base, setting="targeted", rate=0.2)
    copied = replace(base, setting="transfer", rate=0.9)
    clean = Number("mnist", "net", "clean", 0.8, eps=0.0)
    stronger = replace(aimed, attack="BIM", rate=0.6)
    tables = Tables((base, aimed, copied, clean, stronger))
    assert tables.bound(aimed) == 0.6  # an untargeted attack reaches no target
    assert tables.bound(copied) == 0.8  # a white box says nothing of transfers
    assert tables.bound(base) is None
    assert tables.bound(stronger) is None


def test_no_attack_lies_within_every_norm():
    clean = Number("mnist", "net", "clean", 0.8, eps=0.0)
    euclidean = Number("mnist", "net", "PGD", 0.9, eps=1.5, norm="l2")
    assert Tables((clean, euclidean)).bound(euclidean) == 0.8


def test_what_is_not_told_is_not_compared():
    told = Number("mnist", "net", "PGD", 0.3, eps=0.1, steps=10)
    untold = replace(told, rate=0.9, eps=0.2, steps=None)
    assert not told.has_no_more(untold) and not untold.has_no_more(told)
    assert find([told, untold], "larger") == []
