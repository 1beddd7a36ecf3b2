"""Which attacks an evaluation runs: the cheapest first, since broken images are not attacked again.

``"standard"`` holds AutoAttack's standard setting (Croce and Hein, arXiv 2003.01690, section 5:
APGD-CE, targeted APGD-DLR and FAB at 9 classes and 100 steps, Square with 5,000 queries) and more;
``"quick"`` is a smaller version of it for daily use, ``"thorough"`` one with restarts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..attacks.apgd import APGD
from ..attacks.base import Attack
from ..attacks.fab import FAB
from ..attacks.sign import FGSM, PGD
from ..attacks.square import Square
from ..models.heads import Head, Surrogate
from .threat_model import ThreatModel

RIVALS = 9  # classes that a targeted attack goes for, as in AutoAttack


@dataclass(frozen=True)
class SuiteSize:
    """How long the attacks of a budget are: steps, rival classes, restarts, queries of Square."""

    steps: int
    targeted_steps: int
    rivals: int
    restarts: int
    queries: int
    temperatures: tuple[float, ...]


SIZES = {
    "quick": SuiteSize(30, 20, 3, 1, 500, ()),
    "standard": SuiteSize(100, 100, RIVALS, 1, 5000, (0.1, 10.0)),
    "thorough": SuiteSize(200, 100, RIVALS, 5, 20000, (0.01, 0.1, 10.0, 100.0)),
}
BUDGETS = tuple(SIZES)


@dataclass(frozen=True)
class Stage:
    """One attack of a suite.

    Attributes:
        name: A few words; unique in its suite.
        attack: The attack.
        head: The head whose scores it climbs; None for the model's own.
        warm: Whether it starts where a weaker attack came closest.
    """

    name: str
    attack: Attack[Any]
    head: Head | None = None
    warm: bool = False


def lineup(budget: str, threat: ThreatModel, head: Head, num_classes: int) -> list[Stage]:
    """Return the attacks of a budget in the order in which they run.

    Args:
        budget: ``"quick"``, ``"standard"`` or ``"thorough"``.
        threat: What the attacker may do.
        head: What the model's outputs mean: codewords and tanh units get surrogates, too.
        num_classes: Number of classes K; some losses need three.

    Raises:
        ValueError: There is no such budget.

    Example:
        >>> from fastrobust.models.heads import Softmax
        >>> threat = ThreatModel("linf", 0.1)
        >>> [stage.name for stage in lineup("quick", threat, Softmax("ce"), 10)][:3]
        ['FGSM', 'PGD margin', 'APGD ce']
    """
    if budget not in SIZES:
        raise ValueError(f"budget must be one of {', '.join(SIZES)}, got {budget!r}")
    size = SIZES[budget]
    eps, ball = threat.eps, threat.fields
    stages = [Stage("FGSM", FGSM(eps=eps, clip=threat.clip))] if threat.norm == "linf" else []
    stages.append(Stage("PGD margin", PGD(loss="margin", steps=10, step_size=eps / 4, **ball)))
    many: Any = {"steps": size.steps, "restarts": size.restarts, **ball}
    # With two classes there is one difference of scores, which "dlr" would divide by itself.
    dlr = "dlr" if num_classes > 2 else "margin"
    stages.append(Stage("APGD ce", APGD(loss="ce", **many)))
    stages.append(Stage(f"APGD {dlr}", APGD(loss=dlr, **many)))
    stages += _surrogates(size, head, many)
    warm = APGD(loss="margin", steps=size.steps, **ball)
    stages.append(Stage("APGD margin, from the nearest so far", warm, warm=True))
    targeted: Any = {"targets": size.rivals, "restarts": size.restarts, **ball}
    steps = size.targeted_steps
    if budget != "quick":
        pgd = PGD(loss="margin", steps=steps // 2, step_size=5 * eps / steps, **targeted)
        stages.append(Stage("multi-targeted PGD", pgd))
    apgd = APGD(loss="dlr", steps=steps, **targeted)
    stages.append(Stage("APGD targeted dlr", apgd))
    if budget != "quick":
        fab = FAB(steps=100, targets=RIVALS, restarts=size.restarts, **ball)
        stages.append(Stage("FAB targeted", fab))
    stages.append(Stage("Square", Square(queries=size.queries, **ball)))
    return stages


def _surrogates(size: SuiteSize, head: Head, many: dict[str, Any]) -> Iterator[Stage]:
    """Yield attacks on smoother scores with the same decision."""
    if head.activation == "tanh":
        bypass = Surrogate(head, tanh="bypass")
        yield Stage("APGD margin, slope of tanh at least 0.1", APGD(loss="margin", **many), bypass)
        for loss in ("margin", "ce"):
            skip = Surrogate(head, tanh="skip")
            yield Stage(f"APGD {loss}, tanh left out", APGD(loss=loss, **many), skip)
    for temperature in size.temperatures:
        cooled = Surrogate(head, temperature=temperature)
        yield Stage(f"APGD ce, temperature {temperature:g}", APGD(loss="ce", **many), cooled)
