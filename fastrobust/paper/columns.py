"""The attacks in the tables: one line per group of columns.

The paper's columns run what the paper ran. Others run alternative readings of the paper, or attack
the class scores, which decide, instead of the training loss.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..attacks.cwl2 import CWL2, ModifiedCWL2
from ..attacks.deepfool import DeepFool
from ..attacks.lbfgs import LBFGS
from ..attacks.sign import BIM, FGSM, MIM, PGD
from ..train.classifiers import DEFENCE_NAMES, MODEL_NAMES
from . import printed

CE, MSE, CODED = MODEL_NAMES
PGD_ON_SCORES = "PGD on class scores"
LENGTHS = (64, 256, 1024)  # beside 128, the plain name's; the paper's section 4.2
CODED_MODELS = (f"{CODED}:64", CODED, *(f"{CODED}:{length}" for length in LENGTHS[1:]))
COMPARED = (*MODEL_NAMES, *DEFENCE_NAMES)
COMPARED_EPS = (0.1, 0.2)  # the middle and the end of the paper's grids of eps
# Values of eps for Figure 1; they include the .03 and the .35 that the paper reports.
PROBES = (*(round(0.01 * n, 9) for n in range(1, 6)), *(round(0.05 * n, 9) for n in range(2, 21)))

FIGURE_1 = 1  # the table of the cells that the search for Figure 1 may visit
ABLATION = 8  # the table of codeword lengths: the paper's section 4.2 has one sentence on them
DEFENCES = 9  # the table of other defences, none of which is the paper's
ASIDE = (ABLATION, DEFENCES)  # few attacks, other classifiers: not part of the paper's comparison

Make = Callable[[float], object]


@dataclass(frozen=True)
class OptimiserSettings:
    """How long the unbounded attacks optimise.

    Attributes:
        cw_steps: ``max_steps`` of CWL2 and ModifiedCWL2.
        learning_rate: ``learning_rate`` of both; 0.01 is in the authors' published configuration.
        lbfgs_steps: ``max_steps`` of LBFGS.
    """

    cw_steps: int = 1000
    learning_rate: float = 0.01
    lbfgs_steps: int = 1000


@dataclass(frozen=True)
class Column:
    """One group of columns of a table: the attack for each value of its parameter.

    Attributes:
        table: The table's number.
        name: Name above the group; the paper's own name where it has the same column.
        make: Returns the attack for a value.
        view: The view of a cell.
        like: The paper's column whose grid it takes, `name` by default.
        values: The grid itself, if the paper prints none.
        parameter: Name of what varies, with `values` only.
        targeted: As in a cell.
        models: The classifiers in its rows.
        source: Classifier whose adversarial images are transferred, None for no transfer.
        probe: As in a cell.
        distances: As in a cell, for these values of the parameter, on the last of the models.
    """

    table: int
    name: str
    make: Make
    view: str = "paper"
    like: str | None = None
    values: tuple[float, ...] = ()
    parameter: str = "eps"
    targeted: bool = False
    models: tuple[str, ...] = MODEL_NAMES
    source: str | None = None
    probe: bool = False
    distances: tuple[float, ...] = ()

    @property
    def grid(self) -> tuple[str, tuple[float, ...]]:
        """The parameter's name and its values."""
        if self.values:
            return self.parameter, self.values
        return printed.grid(self.table, self.like or self.name)


def _bim(eps: float) -> object:
    return BIM(eps=eps, loss="train")


def _bim_published(eps: float) -> object:
    """Keep what the published code leaves inside BIM: cross-entropy on the last layer's units."""
    return BIM(eps=eps, loss="units-ce")


def _fgsm(eps: float) -> object:
    return FGSM(eps=eps, loss="train")


def _madry(eps: float) -> object:
    return replace(PGD.madry(eps), loss="train")


def _mim(eps: float) -> object:
    return MIM(eps=eps, loss="train")


def _mim_divided(eps: float) -> object:
    """Divide the codeword by its sum, as cleverhans does to every label."""
    return replace(MIM(eps=eps, loss="train"), label_sum_norm=True)


def _on_class_scores(eps: float) -> object:
    """Attack cross-entropy on the class scores; steps of 2.5 eps / steps (arXiv 1706.06083)."""
    return PGD(eps=eps, loss="ce", step_size=round(2.5 * eps / 20, 9), steps=20)


def _deep_fool(view: Literal["class", "units"]) -> Make:
    return lambda steps: DeepFool(max_steps=int(steps), view=view)


def columns(optimiser: OptimiserSettings) -> tuple[Column, ...]:
    """Return every column of every table, those of one table in the order of the page."""
    literal: dict[str, Any] = {
        "on_failure": "clean",
        "abort_from": 1e6,
    }  # what cleverhans v2.1.0 does
    adam: dict[str, Any] = {
        "max_steps": optimiser.cw_steps,
        "learning_rate": optimiser.learning_rate,
    }

    def cw(c: float, **fields: Any) -> object:
        return CWL2(initial_const=c, **adam, **fields)

    def cw_units(c: float) -> object:
        return cw(c, view="units", **literal)

    def cw_logits(c: float) -> object:
        return cw(c, **literal)

    def modified(c: float) -> object:
        return ModifiedCWL2(initial_const=c, **adam, **literal)

    def lbfgs_units(c: float) -> object:
        return LBFGS(
            initial_const=c, max_steps=optimiser.lbfgs_steps, view="units", on_failure="clean"
        )

    def lbfgs(c: float) -> object:
        return LBFGS(initial_const=c, max_steps=optimiser.lbfgs_steps, loss="ce")

    def signs(table: int, targeted: bool) -> list[Column]:
        return [
            Column(table, "MIM", _mim, targeted=targeted),
            Column(table, "BIM", _bim, targeted=targeted),
            Column(table, "FGSM", _fgsm, targeted=targeted),
            Column(table, "Madry", _madry, targeted=targeted),
            Column(table, PGD_ON_SCORES, _on_class_scores, "class", like="BIM", targeted=targeted),
            Column(table, "BIM, CE on units", _bim_published, like="BIM", targeted=targeted),
            Column(
                table, "MIM, label / sum", _mim_divided, like="MIM", targeted=targeted,
                models=(CODED,),
            ),
        ]  # fmt: skip

    def carlini_wagner(table: int, targeted: bool) -> list[Column]:
        return [
            Column(table, "CWL2", cw_units, targeted=targeted),
            Column(table, "CWL2", cw, "class", targeted=targeted),
            Column(
                table, "CWL2, logits", cw_logits, like="CWL2", targeted=targeted, models=(MSE,)
            ),
        ]  # fmt: skip

    victims = (MSE, CODED)
    attacked = (CE, CODED)
    tenth: dict[str, Any] = {"models": CODED_MODELS, "values": (0.1,)}
    twice: dict[str, Any] = {"models": COMPARED, "values": COMPARED_EPS}
    longest: dict[str, Any] = {"models": COMPARED, "parameter": "max_steps", "values": (40,)}
    highest: dict[str, Any] = {"models": COMPARED, "parameter": "initial_const", "values": (10,)}
    return (
        *signs(3, targeted=False),
        Column(3, "DeepFool", _deep_fool("units")),
        Column(3, "DeepFool", _deep_fool("class"), "class"),
        Column(3, "DeepFool, logits", _deep_fool("class"), like="DeepFool", models=(MSE,)),
        *carlini_wagner(3, targeted=False),
        *signs(5, targeted=True),
        *carlini_wagner(5, targeted=True),
        Column(5, "L-BFGS", lbfgs_units, targeted=True),
        Column(5, "L-BFGS", lbfgs, "class", targeted=True),
        Column(6, "CWL2", cw_units, models=victims, source=CE),
        Column(6, "DeepFool", _deep_fool("units"), models=victims, source=CE),
        Column(6, "MIM", _mim, models=victims, source=CE),
        Column(7, "CWL2", cw_units, targeted=True, models=attacked),
        # Figure 3 shows the images of c = 0.1 on codewords.
        Column(
            7, "modified CWL2", modified, targeted=True, models=attacked, distances=(0.1,)
        ),
        Column(7, "CWL2", cw, "class", targeted=True, models=attacked),
        Column(ABLATION, "MIM", _mim, **tenth),
        Column(ABLATION, "BIM", _bim, **tenth),
        Column(ABLATION, PGD_ON_SCORES, _on_class_scores, "class", **tenth),
        Column(
            ABLATION, "modified CWL2", modified, targeted=True, parameter="initial_const", **tenth
        ),
        Column(DEFENCES, "FGSM", _fgsm, **twice),
        Column(DEFENCES, "BIM", _bim, **twice),
        Column(DEFENCES, "MIM", _mim, **twice),
        Column(DEFENCES, "Madry", _madry, **twice),
        Column(DEFENCES, PGD_ON_SCORES, _on_class_scores, "class", **twice),
        Column(DEFENCES, "DeepFool", _deep_fool("units"), **longest),
        Column(DEFENCES, "DeepFool", _deep_fool("class"), "class", **longest),
        Column(DEFENCES, "CWL2", cw_units, **highest),
        Column(DEFENCES, "CWL2", cw, "class", **highest),
        Column(
            FIGURE_1, "Madry", _madry, values=PROBES, targeted=True, models=attacked, probe=True
        ),
    )  # fmt: skip
