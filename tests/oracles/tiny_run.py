"""A run that takes a second: two small untrained nets on random images, a few cells."""

import numpy as np
import torch

from fastrobust import models
from fastrobust.models import checkpoint, heads
from fastrobust.models.classifier import Classifier
from fastrobust.models.codebook import Codebook
from fastrobust.runs.folder import checkpoint_path
from fastrobust.runs.plan import Cell, Plan

CLASSES, SIZE = 3, 8
ATTACKS = (
    (3, "FGSM", "FGSM(eps={})", False),
    (3, "BIM", "BIM(eps={}, loss='train', steps=3)", False),
    (5, "Madry", "PGD(eps={}, steps=3, keep='last')", True),
    (5, "MIM", "MIM(eps={}, steps=3)", True),
)


def data_set(folder):
    """Write a data set of random images and return its name."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("test", 20)):
        arrays[f"x_{split}"] = random.integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % CLASSES
    np.savez(folder / "data.npz", **arrays)
    return f"npz:{folder / 'data.npz'}"


def classifiers(out):
    """Write the two checkpoints of the plan."""
    book = Codebook.random(CLASSES, 16, "key")
    for number, (name, head, width) in enumerate(
        [("O:SOFTMAX:CE", heads.Softmax("ce"), CLASSES), ("R:TANH:MSE", heads.Codeword(book), 16)]
    ):
        torch.manual_seed(number)
        net = models.densenet(layers=(1, 1), growth=4, in_channels=1, num_outputs=width)
        path = checkpoint_path(out, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, Classifier(net, head), seed=0)


def plan(name, eps=(0.1, 0.4), **changes):
    cells = [Cell(4, "clean", None, None, model, None) for model in ("O:SOFTMAX:CE", "R:TANH:MSE")]
    for table, column, attack, targeted in ATTACKS:
        for model in ("O:SOFTMAX:CE", "R:TANH:MSE"):
            for value in eps:
                text = attack.format(value)
                cells.append(Cell(table, column, "eps", value, model, text, targeted))
    settings = {"limit": 18, "batch": 7, "preset": "tiny", "net": "tiny"}
    return Plan(data_set=name, cells=tuple(cells), **{**settings, **changes})


def prepare(folder, **changes):
    """Return a plan and a run folder with its classifiers, ready for sweep.run."""
    out = folder / "run"
    classifiers(out)
    return plan(data_set(folder), **changes), out
