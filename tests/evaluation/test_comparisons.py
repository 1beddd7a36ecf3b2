"""One contradiction gets one verdict: from a run's flags, a published table and a check."""

import numpy as np
import pytest
import torch
from fake_run import made_up, untargeted

from fastrobust.attacks import FGSM
from fastrobust.evaluation.comparisons import Survival, beats, by_share, survivors
from fastrobust.evaluation.sanity import comparisons as checks
from fastrobust.evaluation.sanity.case import CHECK_SIZES, Case, Probe
from fastrobust.evaluation.threat_model import ThreatModel
from fastrobust.published import rules
from fastrobust.published.numbers import Number, Tables
from fastrobust.report import flags, results
from fastrobust.runs.plan import Cell

COUNT = 100


def first(count):
    return torch.arange(COUNT) < count


class Scripted(Probe):
    """100 images on which every attack breaks the first few, as written down for it."""

    def __init__(self, broken):
        x = torch.zeros(COUNT, 1, 2, 2)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 10))
        case = Case(model, x, x[:, 0, 0, 0].long(), ThreatModel("linf", 0.1), transferred=x)
        super().__init__(case, CHECK_SIZES["quick"])
        object.__setattr__(self, "script", broken)
        self.__dict__["indices"] = torch.arange(COUNT)

    def broken(self, attack, head=None, **_):
        return first(self.script(attack))

    def predict(self, x):
        return (torch.arange(COUNT) < self.script("transfer")).long()


def one_step(weak, strong):
    """FGSM at eps = 0.1 against PGD at the same eps."""
    check = checks.one_step(Scripted(lambda a: weak if type(a) is FGSM else strong))
    cells = [untargeted("FGSM", 0.1), untargeted("Madry", 0.1)]
    numbers = [("FGSM", {"eps": 0.1, "steps": 1}), ("Madry", {"eps": 0.1, "steps": 40})]
    return check, cells, numbers, "one-step"


def larger_eps(weak, strong):
    """PGD at eps = 0.05 against eps = 0.1."""
    check = checks.larger_eps(Scripted(lambda a: strong if a.eps > 0.05 else weak))
    cells = [untargeted("Madry", 0.05), untargeted("Madry", 0.1)]
    numbers = [("Madry", {"eps": eps, "steps": 40}) for eps in (0.05, 0.1)]
    return check, cells, numbers, "larger"


def transfer(weak, strong):
    """MIM made on another classifier against MIM on this one."""
    check = checks.transfer(Scripted(lambda a: weak if a == "transfer" else strong))
    cells = [untargeted("MIM", 0.1, table=6, source="O:SOFTMAX:CE"), untargeted("MIM", 0.1)]
    numbers = [("MIM", {"eps": 0.1, "steps": 10, "setting": "transfer"}),
               ("MIM", {"eps": 0.1, "steps": 10})]  # fmt: skip
    return check, cells, numbers, "transfer"


def unbounded(_, strong):
    """CWL2, which nothing bounds, against a guess: no weaker attack is needed."""
    check = checks.unbounded_eps(Scripted(lambda _: strong))
    attack = "CWL2(initial_const=1.0, view='units')"
    cells = [Cell(4, "clean", None, None, "R:TANH:MSE", None),
             Cell(3, "CWL2", "initial_const", 1.0, "R:TANH:MSE", attack)]  # fmt: skip
    numbers = [("clean", {"eps": 0.0}), ("CWL2", {"c": 1.0})]
    return check, cells, numbers, "survivors"


@pytest.mark.parametrize("contradiction", [one_step, larger_eps, transfer, unbounded])
@pytest.mark.parametrize(("weak", "strong", "fails"), [(90, 50, True), (0, 100, False)])
def test_three_programs_agree(tmp_path, contradiction, weak, strong, fails):
    check, cells, numbers, rule = contradiction(weak, strong)
    broken = [0 if cells[0].attack is None else weak, strong]
    root = made_up(tmp_path, "digits", [(c, n, {}) for c, n in zip(cells, broken, strict=True)])
    flagged = [result.cell for result in flags.find_flags(results.read(root))]
    table = [
        Number("digits", "net", attack, 1 - count / COUNT, images=COUNT, **fields)
        for (attack, fields), count in zip(numbers, broken, strict=True)
    ]
    reasons = rules.contradictions(Tables(tuple(table)), rule)
    found = (
        check.verdict == "fail",
        cells[1] in flagged,
        [reason.severity for reason in reasons] == ["fail"] and reasons[0].number is table[1],
    )
    assert found == (fails,) * 3
    assert fails or (check.verdict == "pass" and not flagged and not reasons)


def survival(*rows):
    return Survival.of(np.isin(np.arange(COUNT), rows))


def test_paired_images_are_compared_by_the_sign_test():
    some = tuple(range(COUNT - 40, COUNT))
    assert beats(survival(*range(7), *some), survival(*some)) == "fail"  # 1 / 128
    assert beats(survival(*range(6), *some), survival(*some)) == "warn"  # 1 / 64
    assert beats(survival(*range(5), *some), survival(*some)) == "pass"  # no more than 5%
    # As many each way: the weaker attack misses as much as it finds.
    assert beats(survival(*range(20)), survival(*range(20, 40))) == "warn"
    assert beats(survival(*range(20)), survival(*range(20, 40)), blind=True) == "fail"
    assert beats(survival(*range(3)), survival(*some), blind=True) == "warn"
    assert beats(survival(*range(2)), survival(*some), blind=True) == "pass"


@pytest.mark.parametrize(
    ("weak", "strong", "verdict"),
    [(0.5, 0.5, "pass"), (0.5, 0.501, "pass"), (0.5, 0.52, "warn"), (0.5, 0.6, "fail")],
)
def test_rates_are_compared_by_the_z_test(weak, strong, verdict):
    assert beats(Survival(weak, 1000), Survival(strong, 1000)) == verdict
    assert beats(Survival(strong, 1000), Survival(weak, 1000)) == "pass"


def test_a_guess_is_no_survivor():
    assert survivors(Survival(0.12, 1000), 0.1) == "warn"
    assert survivors(Survival(0.15, 1000), 0.1) == "fail"
    assert survivors(Survival(0.0, 1000), 0.1) == survivors(Survival(0.0, 0), 0.1) == "pass"


def test_fewer_than_three_images_prove_nothing():
    assert by_share(2, 4, fail=0.05, warn=0.02) == "pass"
    assert by_share(3, 4, fail=0.05, warn=0.02) == "fail"
    assert by_share(3, 100, fail=0.05, warn=0.02) == "warn"
    assert by_share(1, 100, fail=0.05, warn=0, few=1) == "warn"
