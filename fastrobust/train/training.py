"""Training: one loop for every head.

Every epoch has its own random generator, keyed by the seed, so that a training that was killed goes
on to the weights it would have reached, bit for bit (on a CPU with the same number of threads; GPU
convolutions are not repeatable to the bit).
"""

import hashlib
import math
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from io import StringIO
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import models
from ..attacks.base import from_repr
from ..data import DataSet
from ..models import checkpoint
from ..models.classifier import Classifier
from ..utils.progress import Tracker, track
from .recipes import TrainConfig, head_of
from .state import Resume


def build(data: DataSet, model_name: str, config: TrainConfig, seed: int = 0) -> Classifier:
    """Return the untrained classifier, on the CPU; inputs are normalised by the training images.

    The weights are a function of the seed, and the global generators stay as they are.
    """
    head = head_of(model_name, data.num_classes, config, seed)
    width = data.num_classes if head.vectors is None else head.vectors.shape[1]
    std, mean = torch.std_mean(data.x_train, (0, 2, 3), correction=0)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(_key(seed, "weights"))
        net = models.by_name(config.net, data.x_train.shape[1], width).float()
    return Classifier(net, head, (mean.tolist(), std.tolist()))


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
        model_name: one of :data:`~fastrobust.train.MODELS`, or ``R:TANH:MSE:64`` and the like.
        config: hyper-parameters, see :func:`~fastrobust.train.default_config`.
        path: checkpoint to write, see :mod:`fastrobust.models.checkpoint`.
        seed: seed of weights, order, shifts, flips and the starts of an attack; of the codewords,
            too, unless the configuration has a key.
        device: where to train.
        progress: shows the epochs, such as :func:`fastrobust.utils.progress.track`; None is silent.

    Returns:
        The trained classifier on `device`, in eval mode.

    Raises:
        ValueError: a split is empty, the model's name is unknown or does not suit `config`.
        RuntimeError: the loss stopped being finite.
        CheckpointError: the kept state is damaged or of a training with other settings.

    Warns:
        UserWarning: after the warm-up, and at least 100 steps, the classifier is hardly better than
            chance. The training goes on all the same.

    Example:
        >>> import tempfile
        >>> import fastrobust as fr
        >>> digits = fr.data.load("digits")
        >>> config = fr.train.default_config("digits", "O:SOFTMAX:CE", epochs=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = fr.train.train(digits, "O:SOFTMAX:CE", config, f"{folder}/ce.safetensors")
        >>> model.predict(digits.x_test).shape
        torch.Size([500])
    """
    for split, x in (("training", data.x_train), ("test", data.x_test)):
        if not len(x):
            raise ValueError(f"data must hold {split} images, got none: load both splits")
    # Channels last is the fastest layout for convolutions of few channels.
    model = build(data, model_name, config, seed).to(device).to(memory_format=torch.channels_last)
    x, y = data.x_train.to(device), data.y_train.to(device)
    optimizer = _optimizer(model, config)
    facts = {"model_name": model_name, "data_set": data.name, "digest": data.digest, "seed": seed}
    vectors = model.head.vectors
    codewords = None if vectors is None else checkpoint.weights_digest({"vectors": vectors})
    settings = {**facts, **config.facts(), "codewords": codewords}
    resume = Resume(Path(f"{path}.resume"), settings, {"model": model, "optimizer": optimizer})
    first = resume.restore()
    show = progress or partial(track, stream=StringIO())
    with show(config.epochs, f"train {model_name}") as tracker:
        tracker.advance(first)
        for epoch in range(first, config.epochs):
            loss, accuracy = _run_epoch(model, x, y, config, optimizer, epoch, seed)
            if not math.isfinite(loss):
                resume.remove()
                raise RuntimeError(
                    f"{model_name} must keep a finite loss, got {loss} in epoch {epoch + 1}; lower "
                    f"peak_lr (now {config.peak_lr}) or loss_scale (now {config.loss_scale})"
                )
            if epoch + 1 == _settled(config, len(x)):
                _warn_if_stalled(model_name, config, accuracy, y)
            resume.save(epoch + 1)
            tracker.note(f"loss {loss:.4f}, training accuracy {accuracy:.3f}")
            tracker.advance()
    model.to(memory_format=torch.contiguous_format).eval()
    facts["accuracy"] = _accuracy(model, data.x_test.to(device), data.y_test.to(device))
    checkpoint.save(path, model, **facts, config=config.facts())
    resume.remove()
    return model


def augment(x: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift images (N, C, H, W) by up to `shift` pixels, padded with zeros; mirror half of them.

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


def one_cycle(done: float, config: TrainConfig) -> float:
    """Learning rate when a share `done` of the training is over.

    Cosines from a 25th of the peak up to it and down to zero: the one cycle of arXiv 1708.07120
    with the divisor of ``torch.optim.lr_scheduler.OneCycleLR``. Unlike that one it ends at zero,
    and follows from the share alone, so that a resumed training needs no state of it.
    """
    if done < config.warm_up:
        low, height = config.peak_lr / 25, done / config.warm_up
    else:
        low, height = 0.0, (1 - done) / (1 - config.warm_up)
    return low + (config.peak_lr - low) * (1 - math.cos(math.pi * height)) / 2


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    return torch.optim.SGD(
        [
            {"params": weights, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.peak_lr,
        momentum=config.momentum,
        nesterov=True,
        fused=True,  # one pass per tensor: the small networks have many small tensors
    )


def _run_epoch(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    seed: int,
) -> tuple[float, float]:
    """Train for an epoch; return the mean loss and the accuracy on its (augmented) images."""
    model.train()
    attack = None if config.attack is None else from_repr(config.attack)
    generator = torch.Generator().manual_seed(_key(seed, epoch))
    order = torch.randperm(len(x), generator=generator).to(x.device)
    # Batches of nearly one size: a small last one would have noisy batch statistics.
    batches = order.tensor_split(math.ceil(len(x) / config.batch_size))
    loss_sum, right = torch.zeros(2, device=x.device)
    for step, rows in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = one_cycle((epoch + step / len(batches)) / config.epochs, config)
        images = augment(x[rows], config.shift, config.flip, generator)
        if attack is not None:
            # The attack sees batch norms in eval mode, as in TRADES (arXiv 1901.08573): an image is
            # attacked by itself, and only what is trained on updates the running statistics.
            start = _key(seed, f"attack {epoch}")
            images = attack(model, images, y[rows], seed=start, index=rows)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            z = model.pre_activation(images)
        loss = model.head.loss(z, y[rows])
        optimizer.zero_grad()
        (config.loss_scale * loss.mean()).backward()
        optimizer.step()
        loss_sum += loss.detach().sum()
        right += (model.head.decide(z) == y[rows]).sum()
    return loss_sum.item() / len(x), right.item() / len(x)


def _settled(config: TrainConfig, count: int) -> int:
    """Return the number of epochs after which a classifier should be better than chance."""
    epochs_of_100_steps = math.ceil(100 / math.ceil(count / config.batch_size))
    return min(config.epochs, max(math.ceil(config.warm_up * config.epochs), epochs_of_100_steps))


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
        int((model.predict(xs) == ys).sum())
        for xs, ys in zip(x.split(500), y.split(500), strict=True)
    )
    return right / len(y)


def _key(seed: int, purpose: int | str) -> int:
    """Return the seed of one generator; different (seed, purpose) give unrelated streams."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "little")
