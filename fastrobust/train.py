"""Training: one loop for every head.

Random numbers come from generators of their own, keyed by seed and epoch, so that a training that
was killed goes on to the very weights it would have reached (on a CPU with the same number of
threads; GPU convolutions do not repeat to the bit).
"""

import hashlib
import math
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import checkpoint, heads, models
from .classifier import Classifier
from .codebook import Codebook
from .data import DataSet
from .progress import Tracker, track
from .resume import Resume


@dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters; the defaults are those of digits.

    Attributes:
        net: the network by name, see :func:`fastrobust.models.by_name`.
        epochs: passes over the training images; more gain nothing on digits.
        batch_size: at most this many images a step: 64 is DenseNet's (arXiv 1608.06993, 4.2).
        peak_lr: highest learning rate of the one cycle (arXiv 1708.07120): DenseNet's 0.1.
        warm_up: share of the steps that climb to the peak: a squared error on softmax or tanh
            units has no gradient where they saturate, so steps start small.
        momentum: Nesterov momentum, DenseNet's.
        weight_decay: on convolution and linear weights; norms and biases set no scale, so they
            have none.
        loss_scale: factor on the loss: a mean over units makes the gradients of a squared error
            several times smaller than those of cross-entropy.
        shift: images move by up to this many pixels each way, zeros follow: the usual crop.
        flip: images are mirrored half of the time; wrong for digits and letters.
        code_length: units of a codeword head: the paper's 128 (arXiv 1812.00181, 4.2).
        code_key: secret that draws the codewords; it is stored nowhere. None takes the seed, which
            anyone can read in the checkpoint.
    """

    net: str = "digits"
    epochs: int = 25
    batch_size: int = 64
    peak_lr: float = 0.1
    warm_up: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4
    loss_scale: float = 1.0
    shift: int = 1
    flip: bool = False
    code_length: int = 128
    code_key: str | None = field(default=None, repr=False)

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

    def facts(self) -> dict[str, Any]:
        """Every field but the key, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "code_key"}


def _codeword(num_classes: int, config: TrainConfig, seed: int) -> heads.Head:
    key = f"seed {seed}" if config.code_key is None else config.code_key
    return heads.Codeword(Codebook.random(num_classes, config.code_length, key))


# The paper's models (arXiv 1812.00181, section 4.2): targets, units, loss.
MODELS: dict[str, Callable[[int, TrainConfig, int], heads.Head]] = {
    "O:SOFTMAX:CE": lambda num_classes, config, seed: heads.Softmax("ce"),
    "O:SOFTMAX:MSE": lambda num_classes, config, seed: heads.Softmax("mse"),
    "R:TANH:MSE": _codeword,
}
MODEL_NAMES = tuple(MODELS)

_LOSS_SCALES = {"O:SOFTMAX:CE": 1.0, "O:SOFTMAX:MSE": 5.0, "R:TANH:MSE": 5.0}

# Larger images: DenseNet-BC 40-12, DenseNet's crops (4 of 32 pixels, so 2 or 3 of 28), the learning
# rate scaled with the batch (arXiv 1706.02677), and passes enough for each set's difficulty.
_LARGE: dict[str, Any] = {"net": "40-12", "epochs": 60, "batch_size": 128, "peak_lr": 0.2, "shift": 2}
_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": {**_LARGE, "epochs": 15},
    "fashion_mnist": {**_LARGE, "flip": True},
    "cifar10": {**_LARGE, "epochs": 100, "shift": 4, "flip": True},
}


def default_config(data_set_name: str, model_name: str, **overrides: Any) -> TrainConfig:
    """Return the settings for one of the paper's models on a data set.

    Args:
        data_set_name: as for :func:`fastrobust.data.load`; ``npz:`` and ``folder:`` sets get
            settings for images of about 32x32.
        model_name: one of :data:`MODEL_NAMES`.
        **overrides: fields of :class:`TrainConfig` to change.

    Raises:
        ValueError: the model's name is unknown, or a number is out of range.
        TypeError: an override is no field.

    Example:
        >>> default_config("digits", "R:TANH:MSE", epochs=3).loss_scale
        5.0
    """
    _check_model_name(model_name)
    settings = _SETTINGS.get(data_set_name, _LARGE)
    return TrainConfig(**{**settings, "loss_scale": _LOSS_SCALES[model_name], **overrides})


def slug(model_name: str) -> str:
    """Return a model's name as it stands in file names: ``o-softmax-ce``."""
    return model_name.lower().replace(":", "-")


def build(data: DataSet, model_name: str, config: TrainConfig, seed: int = 0) -> Classifier:
    """Return the untrained classifier, on the CPU; inputs are normalised by the training images.

    The weights are a function of the seed, and the global generators stay as they are.
    """
    _check_model_name(model_name)
    head = MODELS[model_name](data.num_classes, config, seed)
    width = data.num_classes if head.vectors is None else head.vectors.shape[1]
    std, mean = torch.std_mean(data.x_train, (0, 2, 3), correction=0)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(_key(seed, "weights"))
        net = models.by_name(config.net, data.x_train.shape[1], width).float()
    return Classifier(net, head, (mean, std))


def train(
    data: DataSet,
    model_name: str,
    config: TrainConfig,
    path: str | os.PathLike[str],
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, str], AbstractContextManager[Tracker]] | None = None,
) -> Classifier:
    """Train a classifier and write its checkpoint.

    After each epoch the state is kept in ``<path>.resume``: when the same call is made again after
    a kill it goes on from there, and the file is removed at the end.

    Args:
        data: both splits; the test images only measure the accuracy at the end.
        model_name: one of :data:`MODEL_NAMES`.
        config: hyper-parameters, see :func:`default_config`.
        path: checkpoint to write, see :mod:`fastrobust.checkpoint`.
        seed: of weights, order, shifts and flips; without a key also of the codewords.
        device: where to train.
        progress: shows the epochs, such as :func:`fastrobust.progress.track`; None is silent.

    Returns:
        The trained classifier on `device`, in eval mode.

    Raises:
        ValueError: a split is empty, or the model's name is unknown.
        RuntimeError: the loss stopped being finite.
        CheckpointError: the kept state is damaged or of a training with other settings.

    Warns:
        UserWarning: after the warm-up the classifier still does little better than chance. It is
            trained to the end all the same.

    Example:
        >>> import tempfile
        >>> digits = fr.data.load("digits")
        >>> config = default_config("digits", "O:SOFTMAX:CE", epochs=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = train(digits, "O:SOFTMAX:CE", config, f"{folder}/ce.safetensors")
        >>> model.predict(digits.x_test).shape
        torch.Size([500])
    """
    for split, x in (("training", data.x_train), ("test", data.x_test)):
        if not len(x):
            raise ValueError(f"data must hold {split} images, got none: load both splits")
    model = build(data, model_name, config, seed).to(device)
    x, y = data.x_train.to(device), data.y_train.to(device)
    optimizer, schedule = _optimizer(model, config, len(x))
    facts = {
        "model_name": model_name,
        "data_set": data.name,
        "digest": data.digest,
        "seed": seed,
    }
    settings = {**facts, **config.facts(), "codewords": _digest(model.head.vectors)}
    resume = Resume(
        Path(f"{path}.resume"),
        settings,
        {"model": model, "optimizer": optimizer, "schedule": schedule},
    )
    first = resume.restore()
    # A text file nobody reads makes a silent progress.
    start = progress or partial(track, stream=StringIO())
    with start(config.epochs, f"train {model_name}") as tracker:
        tracker.advance(first)
        for epoch in range(first, config.epochs):
            generator = torch.Generator().manual_seed(_key(seed, epoch))
            loss, accuracy = _run_epoch(model, x, y, config, optimizer, schedule, generator)
            if not math.isfinite(loss):
                resume.remove()
                raise RuntimeError(
                    f"{model_name} must keep a finite loss, got {loss} in epoch {epoch + 1}; lower "
                    f"peak_lr (now {config.peak_lr}) or loss_scale (now {config.loss_scale})"
                )
            if epoch + 1 == math.ceil(config.warm_up * config.epochs):
                _warn_if_stalled(model_name, config, accuracy, y)
            resume.save(epoch + 1)
            tracker.note(f"loss {loss:.4f}, training accuracy {accuracy:.3f}")
            tracker.advance()
    model.eval()
    facts["accuracy"] = _accuracy(model, data.x_test.to(device), data.y_test.to(device))
    checkpoint.save(path, model, **facts, config=config.facts())
    resume.remove()
    return model


def augment(x: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift images (N, C, H, W) by up to `shift` pixels, zeros follow; mirror each or not.

    One gather for the whole batch, and the same pixels on every device.
    """
    count, channels, height, width = x.shape
    corner = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    rows, columns = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
    if flip:
        mirrored = torch.randint(0, 2, (count, 1), generator=generator).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = rows.to(x.device), columns.to(x.device)
    image = torch.arange(count, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return F.pad(x, (shift,) * 4)[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _optimizer(
    model: nn.Module, config: TrainConfig, count: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD with Nesterov momentum, and one cycle of the learning rate."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": config.weight_decay}, {"params": others}],
        lr=config.peak_lr,
        momentum=config.momentum,
        nesterov=True,
    )
    steps = config.epochs * math.ceil(count / config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.peak_lr, total_steps=steps, pct_start=config.warm_up, cycle_momentum=False
    )
    return optimizer, schedule


def _run_epoch(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Pass once over the images; return the mean loss and the accuracy on what it saw."""
    model.train()
    loss_sum, right = torch.zeros(2, device=x.device)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    # Batches of nearly one size: a small last one would have noisy batch statistics.
    for rows in order.tensor_split(math.ceil(len(x) / config.batch_size)):
        z = model.pre_activation(augment(x[rows], config.shift, config.flip, generator))
        loss = model.head.loss(z, y[rows])
        optimizer.zero_grad()
        (config.loss_scale * loss.mean()).backward()
        optimizer.step()
        schedule.step()
        loss_sum += loss.detach().sum()
        right += (model.head.decide(z) == y[rows]).sum()
    return loss_sum.item() / len(x), right.item() / len(x)


def _warn_if_stalled(model_name: str, config: TrainConfig, accuracy: float, y: Tensor) -> None:
    chance = y.bincount().max().item() / len(y)
    if accuracy < chance + 0.05 * (1 - chance):
        warnings.warn(
            f"{model_name} stalled: training accuracy {accuracy:.3f} after the warm-up, chance is "
            f"{chance:.3f}. Its gradients may vanish: try a larger loss_scale (now "
            f"{config.loss_scale}) or warm_up (now {config.warm_up}), a smaller peak_lr (now "
            f"{config.peak_lr}), or another seed",
            UserWarning,
            stacklevel=3,
        )


def _accuracy(model: Classifier, x: Tensor, y: Tensor) -> float:
    right = sum(
        int((model.predict(xs) == ys).sum()) for xs, ys in zip(x.split(500), y.split(500), strict=True)
    )
    return right / len(y)


def _key(seed: int, purpose: int | str) -> int:
    """Return the seed of one generator; different (seed, purpose) give unrelated streams."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "little")


def _digest(vectors: Tensor | None) -> str | None:
    return None if vectors is None else checkpoint.weights_digest({"vectors": vectors})


def _check_model_name(model_name: str) -> None:
    if model_name not in MODELS:
        raise ValueError(f"the model must be one of {', '.join(MODELS)}, got {model_name!r}")
