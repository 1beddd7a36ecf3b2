"""What to train and with which settings: the paper's models, other defences, every data set."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import attacks
from ..models import heads
from ..models.codebook import Codebook


@dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters; the defaults are those of digits, where every model reaches 0.985.

    Attributes:
        net: the network by name, see :func:`fastrobust.models.by_name`.
        epochs: passes over the training images; 25 gave up to a point less on digits.
        batch_size: at most this many images a step: 64 is DenseNet's (arXiv 1608.06993, 4.2).
        peak_lr: highest learning rate of the one cycle (arXiv 1708.07120): a short training wants
            a high one.
        warm_up: share of the steps that climb to the peak: a squared error on softmax or tanh
            units has no gradient where they saturate, so steps start small.
        momentum: Nesterov momentum, DenseNet's.
        weight_decay: on convolution and linear weights, more than usual since digits are few;
            norms and biases have none.
        loss_scale: factor on the loss: a mean over units makes the gradients of a squared error
            some ten times smaller than those of cross-entropy.
        shift: images move by up to this many pixels each way, zeros follow: the usual crop.
        flip: images are mirrored half of the time; wrong for digits and letters.
        precision: of the network's products: ``"fp32"``, or ``"bf16"`` for PyTorch's autocast to
            bfloat16, about twice as fast for large networks; weights, head and loss are float32.
        code_length: units of a codeword head: the paper's 128 (arXiv 1812.00181, 4.2).
        code_key: secret that draws the codewords; it is stored nowhere. None takes the seed, which
            anyone can read in the checkpoint.
        attack: repr of the attack that the images of every batch go through first: adversarial
            training (arXiv 1706.06083). None trains on the images as they are.
    """

    net: str = "digits"
    epochs: int = 35
    batch_size: int = 64
    peak_lr: float = 0.3
    warm_up: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 2e-3
    loss_scale: float = 1.0
    shift: int = 1
    flip: bool = False
    precision: str = "fp32"
    code_length: int = 128
    code_key: str | None = field(default=None, repr=False)
    attack: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot train."""
        for name, low in (("epochs", 1), ("batch_size", 1), ("shift", 0), ("code_length", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be >= {low}, got {getattr(self, name)}")
        for name in ("peak_lr", "loss_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be >= 0 and finite, got {self.weight_decay}")
        for name in ("warm_up", "momentum"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {getattr(self, name)}")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        if self.attack is not None:
            attacks.from_repr(self.attack)

    def facts(self) -> dict[str, Any]:
        """Every field but the key, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "code_key"}


def _codeword(num_classes: int, config: TrainConfig, seed: int) -> heads.Head:
    key = f"seed {seed}" if config.code_key is None else config.code_key
    return heads.Codeword(Codebook.random(num_classes, config.code_length, key))


MakeHead = Callable[[int, TrainConfig, int], heads.Head]

# The paper's models (arXiv 1812.00181, section 4.2): targets, units, loss.
_PAPERS: dict[str, MakeHead] = {
    "O:SOFTMAX:CE": lambda num_classes, config, seed: heads.Softmax("ce"),
    "O:SOFTMAX:MSE": lambda num_classes, config, seed: heads.Softmax("mse"),
    "R:TANH:MSE": _codeword,
}
# What to hold them against: squared error without a softmax, tanh without codewords, and the one
# defence that has stood, adversarial training (Athalye et al. 2018, arXiv 1802.00420, 5.1).
_ADVERSARIAL = "O:SOFTMAX:CE:PGD"
_DEFENCES: dict[str, MakeHead] = {
    "O:LINEAR:MSE": lambda num_classes, config, seed: heads.Linear(),
    "O:TANH:MSE": lambda num_classes, config, seed: heads.Codeword(Codebook.one_hot(num_classes)),
    _ADVERSARIAL: _PAPERS["O:SOFTMAX:CE"],
}
MODELS = {**_PAPERS, **_DEFENCES}
MODEL_NAMES, DEFENCE_NAMES = tuple(_PAPERS), tuple(_DEFENCES)

# The paper also tried codewords of 64, 256 and 1024 units (section 4.2): a length behind the name.
_WITH_LENGTH = re.compile(r"(R:TANH:MSE):([1-9][0-9]*)")

# Linear outputs do not saturate: 5 makes their gradient z - y of ten classes, as large as that of
# cross-entropy.
_LOSS_SCALES = {
    "O:SOFTMAX:CE": 1.0,
    "O:SOFTMAX:MSE": 15.0,
    "R:TANH:MSE": 15.0,
    "O:LINEAR:MSE": 5.0,
    "O:TANH:MSE": 15.0,
    _ADVERSARIAL: 1.0,
}

# Larger images: DenseNet-BC 40-12 by DenseNet's recipe (arXiv 1608.06993, 4.2): its weight decay,
# its crops (4 of 32 pixels, half of it where objects fill the image), its learning rate scaled with
# the batch (arXiv 1706.02677). One cycle needs a third of its 300 epochs; MNIST is easy.
_LARGE: dict[str, Any] = {
    "net": "40-12",
    "epochs": 60,
    "batch_size": 128,
    "peak_lr": 0.2,
    "weight_decay": 5e-4,
    "shift": 2,
    "precision": "bf16",
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": {**_LARGE, "epochs": 15},
    "fashion_mnist": {**_LARGE, "flip": True},
    "cifar10": {**_LARGE, "epochs": 100, "shift": 4, "flip": True},
}


def _pgd(eps: float, step_size: float, steps: int) -> str:
    """Return the attack of adversarial training: one random start, the last iterate counts."""
    return repr(attacks.PGD(eps, "train", step_size=step_size, steps=steps, keep="last"))


# Madry et al.'s own for MNIST and CIFAR-10 (arXiv 1706.06083, section 5). The radius for digits is
# the largest of the paper's untargeted tables, in CIFAR-10's proportions; for Fashion-MNIST it is
# Wong and Kolter's (arXiv 1711.00851, section 4), in steps of 2.5 eps / steps.
_ATTACKS = {
    "digits": _pgd(0.2, 0.05, 7),
    "mnist": _pgd(0.3, 0.01, 40),
    "fashion_mnist": _pgd(0.1, 0.025, 10),
    "cifar10": _pgd(8 / 255, 2 / 255, 7),
}


def default_config(data_set_name: str, model_name: str, **overrides: Any) -> TrainConfig:
    """Return the settings for a model on a data set.

    Args:
        data_set_name: as for :func:`fastrobust.data.load`; ``npz:`` and ``folder:`` sets get
            settings for images of about 32x32, and CIFAR-10's attack.
        model_name: one of :data:`MODELS`, or ``R:TANH:MSE:64``: the same recipe with codewords of
            another length.
        **overrides: fields of :class:`TrainConfig` to change.

    Raises:
        ValueError: the model's name is unknown, or a number is out of range.
        TypeError: an override is no field.

    Example:
        >>> default_config("digits", "R:TANH:MSE", epochs=3).loss_scale
        15.0
        >>> default_config("digits", "R:TANH:MSE:64").code_length
        64
    """
    base, length = split_name(model_name)
    settings = {**_SETTINGS.get(data_set_name, _LARGE), "loss_scale": _LOSS_SCALES[base]}
    if length is not None:
        settings["code_length"] = length
    if base == _ADVERSARIAL:
        settings["attack"] = _ATTACKS.get(data_set_name, _ATTACKS["cifar10"])
    return TrainConfig(**{**settings, **overrides})


def split_name(model_name: str) -> tuple[str, int | None]:
    """Return the one of :data:`MODELS` that a name starts with, and the codeword length in it.

    Raises:
        ValueError: it is no model's name.

    >>> split_name("R:TANH:MSE:64"), split_name("O:SOFTMAX:CE")
    (('R:TANH:MSE', 64), ('O:SOFTMAX:CE', None))
    """
    if model_name in MODELS:
        return model_name, None
    found = _WITH_LENGTH.fullmatch(model_name)
    if not found:
        raise ValueError(
            f"the model must be one of {', '.join(MODELS)} or R:TANH:MSE:<codeword length>, "
            f"got {model_name!r}"
        )
    base, length = found[1], int(found[2])
    if length == TrainConfig.code_length:
        raise ValueError(f"the model must be {base}, whose codewords have {length} units, "
                         f"got {model_name!r}")  # fmt: skip
    return base, length


def head_of(model_name: str, num_classes: int, config: TrainConfig, seed: int = 0) -> heads.Head:
    """Return the head of a model, whose codewords the configuration and the seed draw.

    Raises:
        ValueError: it is no model's name, or the configuration has another codeword length, or an
            attack where the name says none, or none where it does.
    """
    base, length = split_name(model_name)
    if length not in (None, config.code_length):
        raise ValueError(
            f"config must have the code_length of {model_name}, got {config.code_length}"
        )
    if (config.attack is None) == (base == _ADVERSARIAL):
        wish = "an" if base == _ADVERSARIAL else "no"
        raise ValueError(f"config must have {wish} attack for {model_name}, got {config.attack}")
    return MODELS[base](num_classes, config, seed)
