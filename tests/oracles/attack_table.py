"""The attacks that tests run over, short enough for each test: a new attack gets its line here."""

from fastrobust.attacks import (
    APGD,
    BIM,
    CWL2,
    FAB,
    FGSM,
    LBFGS,
    MIM,
    PGD,
    DeepFool,
    ModifiedCWL2,
    Square,
)

IN_BALL = [
    FGSM(eps=0.1),
    BIM(eps=0.1, keep="best"),
    MIM(eps=0.1),
    PGD(eps=0.05, step_size=0.02, steps=8),
    PGD(eps=0.05, step_size=0.02, steps=6, restarts=3, loss="margin"),
    PGD(eps=0.05, step_size=0.02, steps=6, restarts=3, keep="last", loss="dlr"),
    PGD(eps=0.3, step_size=0.1, steps=8, norm="l2", loss="train"),
    PGD.madry(0.05),
    Square(eps=0.06, queries=40, restarts=2),
    Square(eps=0.4, norm="l2", loss="ce", queries=40),
]
# APGD halves its step where sums of another order may part two runs.
ADAPTIVE = [APGD(eps=0.05, steps=8, loss="margin"), APGD(eps=0.3, steps=6, norm="l2", restarts=2)]

_QUICK = {"max_steps": 40, "learning_rate": 0.05, "initial_const": 0.1, "binary_search_steps": 3}
CW = [
    CWL2(**_QUICK),
    CWL2(**_QUICK, view="units", on_failure="clean", abort_from=1e6),
    CWL2(**_QUICK, confidence=0.05, abort_early=False),
    ModifiedCWL2(**_QUICK),
    ModifiedCWL2(**_QUICK, metric="squared"),
]
DEEPFOOL = [
    DeepFool(candidates=5),
    DeepFool(candidates=3, max_steps=4, overshoot=0.1, clip=None),
    DeepFool(candidates=16, max_steps=20, view="units"),
]
FABS = [FAB(steps=4), FAB(norm="l2", steps=4, restarts=2, targets=2, clip=None)]
SEARCHES = [*CW, *DEEPFOOL, *FABS, LBFGS(max_steps=10, binary_search_steps=2)]

ALL = [*IN_BALL, *ADAPTIVE, *SEARCHES]
EASY_EPS = [FGSM, BIM, MIM, PGD, lambda eps: Square(eps, queries=50)]  # made by their eps alone
