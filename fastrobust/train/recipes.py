"""Hyper-parameters of a training, and their defaults for every classifier and data set."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..attacks.base import from_repr
from ..attacks.sign import PGD
from ..models import heads
from .classifiers import ADVERSARIAL, CODE_LENGTH, MODELS, split_name


@dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters; the defaults are those of digits, where every model reaches 0.985.

    Attributes:
        net: name of the network, see :func:`fastrobust.models.by_name`.
        epochs: passes over the training images; 25 gave up to a point less on digits.
        batch_size: images per step, at most: 64 is DenseNet's (arXiv 1608.06993, 4.2).
        peak_lr: highest learning rate of the one cycle (arXiv 1708.07120): high, since trainings
            are short.
        warm_up: share of the steps before the peak: a squared error on softmax or tanh units has
            no gradient where they saturate, so steps start small.
        momentum: Nesterov momentum, DenseNet's.
        weight_decay: on convolution and linear weights, more than usual since digits are few;
            norms and biases have none.
        loss_scale: factor on the loss: a mean over units makes the gradients of a squared error
            some ten times smaller than those of cross-entropy.
        shift: images move by up to this many pixels each way, zeros follow: the usual crop.
        flip: images are mirrored half of the time; wrong for digits and letters.
        precision: precision of the network's products: ``"fp32"``, or ``"bf16"`` for PyTorch's
            autocast to bfloat16, about twice as fast for large networks; weights, head and loss are
            float32.
        code_length: number of units of a codeword head: the paper's 128 (arXiv 1812.00181, 4.2).
        code_key: secret key of the random codewords; it is stored nowhere. None takes the seed,
            which anyone can read in the checkpoint.
        attack: repr of the attack for adversarial training (arXiv 1706.06083): every batch is
            attacked before a step is made. None trains on the images as they are.
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
    code_length: int = CODE_LENGTH
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
            from_repr(self.attack)

    def facts(self) -> dict[str, Any]:
        """Every field but the key, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "code_key"}


# Linear outputs do not saturate: 5 makes their gradient z - y of ten classes, as large as that of
# cross-entropy.
_LOSS_SCALES = {
    "O:SOFTMAX:CE": 1.0,
    "O:SOFTMAX:MSE": 15.0,
    "R:TANH:MSE": 15.0,
    "O:LINEAR:MSE": 5.0,
    "O:TANH:MSE": 15.0,
    ADVERSARIAL: 1.0,
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
    return repr(PGD(eps, "train", step_size=step_size, steps=steps, keep="last"))


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
        model_name: one of :data:`~fastrobust.train.MODELS`, or ``R:TANH:MSE:64``: the same recipe
            with codewords of another length.
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
    if base == ADVERSARIAL:
        settings["attack"] = _ATTACKS.get(data_set_name, _ATTACKS["cifar10"])
    return TrainConfig(**{**settings, **overrides})


def head_of(model_name: str, num_classes: int, config: TrainConfig, seed: int = 0) -> heads.Head:
    """Return the head of a model; its codewords follow from the configuration and the seed.

    Raises:
        ValueError: there is no model of that name, or the configuration has another codeword
            length, or an attack where the name has none, or none where it has one.
    """
    base, length = split_name(model_name)
    if length not in (None, config.code_length):
        raise ValueError(
            f"config must have the code_length of {model_name}, got {config.code_length}"
        )
    if (config.attack is None) == (base == ADVERSARIAL):
        article = "an" if base == ADVERSARIAL else "no"
        raise ValueError(f"config must have {article} attack for {model_name}, got {config.attack}")
    key = f"seed {seed}" if config.code_key is None else config.code_key
    return MODELS[base](num_classes, config.code_length, key)
