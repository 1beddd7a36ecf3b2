"""Published numbers: what was attacked, how, the printed rate, and what it proves for others."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..evaluation.comparisons import Survival
from ..paper.printed import CLEAN

SETTINGS = ("untargeted", "targeted", "transfer", "targeted transfer")
PARAMETERS = ("eps", "c", "steps", "kappa")  # a larger one allows the attacker more
NORMS = ("linf", "l2", "l1")


@dataclass(frozen=True)
class Number:
    """One printed number.

    Attributes:
        data: Name of the data set.
        model: Name of the classifier.
        attack: Name of the attack; ``"clean"`` for none.
        rate: Accuracy, or the success rate of a targeted attack.
        setting: One of `SETTINGS`.
        eps: Bound on the distance, None for an unbounded attack.
        c: Constant of CWL2 and L-BFGS.
        steps: Number of steps; 1 marks a one-step attack.
        kappa: Confidence of CWL2.
        norm: Norm of eps.
        source: Classifier that the images of a transfer were made on, if known.
        table: Name of the table.
        images: Sample size.

    Raises:
        ValueError: A field has a value outside its range.
    """

    data: str
    model: str
    attack: str
    rate: float
    setting: str = "untargeted"
    eps: float | None = None
    c: float | None = None
    steps: int | None = None
    kappa: float | None = None
    norm: str = "linf"
    source: str | None = None
    table: str = ""
    images: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:  # NaN is refused here too
            hint = ", which are percent" if 1 < self.rate <= 100 else ""
            raise ValueError(f"{self.metric} must lie in [0, 1], got {self.rate:g}{hint}")
        for name in PARAMETERS:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and >= 0, got {value:g}")
        for name in ("steps", "images"):
            value = getattr(self, name)
            if value is not None and not (value >= 1 and value == int(value)):
                raise ValueError(f"{name} must be an integer >= 1, got {value:g}")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.norm == "linf" and self.eps is not None and self.eps > 1:
            raise ValueError(f"eps must be for pixels in [0, 1], such as 8/255, got {self.eps:g}")
        if self.setting not in SETTINGS:
            raise ValueError(f"setting must be one of {', '.join(SETTINGS)}, got {self.setting!r}")
        if self.source is not None and not self.transferred:
            raise ValueError(f"source must come with a transfer, got setting {self.setting!r}")

    @property
    def clean(self) -> bool:
        """Whether it is a clean accuracy."""
        return self.attack == CLEAN

    @property
    def targeted(self) -> bool:
        """Whether the rate is the share of images that reached their target."""
        return "targeted" in self.setting.split()

    @property
    def transferred(self) -> bool:
        """Whether the images were made on another classifier."""
        return "transfer" in self.setting

    @property
    def metric(self) -> str:
        """``"success"`` of a targeted attack, else ``"accuracy"``."""
        return "success" if self.targeted else "accuracy"

    @property
    def defended(self) -> float:
        """The share of images that the attack did not break."""
        return 1 - self.rate if self.targeted else self.rate

    @property
    def survival(self) -> Survival:
        """That share with its number of images."""
        return Survival(self.defended, self.images)

    @property
    def bounded(self) -> bool:
        """Whether the images had to stay within a distance."""
        return self.eps is not None

    @property
    def parameters(self) -> dict[str, float]:
        """What is given of `PARAMETERS`."""
        values = ((name, getattr(self, name)) for name in PARAMETERS)
        return {name: value for name, value in values if value is not None}

    @property
    def words(self) -> str:
        """The attack with its parameters: ``targeted Madry (eps = 0.1, steps = 40)``."""
        if self.clean:
            return "no attack"
        goal = "targeted " if self.targeted else ""
        given = {name: value for name, value in self.parameters.items() if name != "kappa" or value}
        values = ", ".join(f"{name} = {value:g}" for name, value in given.items())
        made = f" made on {self.source or 'another classifier'}" if self.transferred else ""
        return f"{goal}{self.attack}" + (f" ({values})" if values else "") + made

    @property
    def sentence(self) -> str:
        """What it says: ``FGSM (eps = 0.2, steps = 1) leaves 0.332``."""
        return f"{self.words} {'reaches' if self.targeted else 'leaves'} {self.rate:.3f}"

    def lies_within(self, other: "Number") -> bool:
        """Return whether its images lie within the other's eps too."""
        if self.clean or other.eps is None:
            return True
        return self.eps is not None and self.norm == other.norm and self.eps <= other.eps

    def has_no_more(self, other: "Number") -> bool:
        """Return whether it is the same attack, with no parameter larger."""
        if (self.attack, self.norm) != (other.attack, other.norm):
            return False
        if self.parameters.keys() != other.parameters.keys():
            return False
        return all(value <= other.parameters[name] for name, value in self.parameters.items())

    def is_like(self, other: "Number") -> bool:
        """Return whether it is the same attack with the same parameters."""
        return self.has_no_more(other) and other.has_no_more(self)


@dataclass(frozen=True)
class Tables:
    """Numbers that were published together.

    Attributes:
        numbers: All of them.
        classes: Number of classes of the data sets.

    Raises:
        ValueError: There are fewer than two classes.
    """

    numbers: tuple[Number, ...]
    classes: int = 10

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes must be >= 2, got {self.classes}")

    @property
    def guess(self) -> float:
        """The accuracy of a guess."""
        return 1 / self.classes

    @cached_property
    def _groups(self) -> dict[tuple[str, str], list[Number]]:
        groups: dict[tuple[str, str], list[Number]] = {}
        for number in self.numbers:
            groups.setdefault((number.data, number.model), []).append(number)
        return groups

    def attacks(self) -> Iterator[Number]:
        """Yield the numbers of attacks that leave more than the accuracy of a guess."""
        for number in self.numbers:
            if not number.clean and number.defended > self.guess:
                yield number

    def white_box(self) -> Iterator[Number]:
        """Yield those of `attacks` that were made on the classifier itself."""
        return (number for number in self.attacks() if not number.transferred)

    def beside(self, number: Number) -> Iterator[Number]:
        """Yield all numbers of the same data set and classifier, including itself."""
        return iter(self._groups[number.data, number.model])

    def rivals(self, number: Number) -> Iterator[Number]:
        """Yield those of them that are attacks in the same setting."""
        setting = (number.setting, number.source)
        return (n for n in self.beside(number) if (n.setting, n.source) == setting and not n.clean)

    def clean(self, number: Number) -> Number | None:
        """Return the clean accuracy, None if it is not printed."""
        return next((n for n in self.beside(number) if n.clean), None)

    def bound(self, number: Number) -> float | None:
        """Return the tightest bound that the other numbers set, None if it is no tighter.

        Accuracy under attack is at most the clean accuracy, the accuracy under any attack within
        the same eps, and the share that such a targeted attack does not move to its targets. The
        success of a targeted attack is at least that of any within its eps. The accuracy under
        transfer is bounded by the clean accuracy and other transfers only.
        """
        others = (n.defended for n in self.beside(number) if _bounds(n, number))
        least = min(others, default=number.defended)
        if least >= number.defended:
            return None
        return round(1 - least if number.targeted else least, 9)


def _bounds(one: Number, other: Number) -> bool:
    if other.targeted and not one.targeted:
        return False
    if other.transferred and not (one.clean or one.transferred):
        return False
    return one.lies_within(other)
