"""Experiments that say why a number is what it is; writes ``experiments.md`` beside it.

    python results/experiments.py --data-root DIR [NAME...]

They use the classifiers of ``fr.models.pretrained`` and the first test images. An experiment that
is named is run again, the others keep what ``experiments.json`` has of them.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from cells import NAMES
from torch import Tensor

import fastrobust as fr
from fastrobust.attacks import BIM, CWL2, FGSM, LBFGS, MIM, PGD, DeepFool, ModifiedCWL2
from fastrobust.models.heads import Surrogate
from fastrobust.paper import printed
from fastrobust.train.classifiers import MODEL_NAMES

HERE = Path(__file__).parent
CE, MSE, CODED = MODEL_NAMES
DATA_SETS = {"mnist": "mnist", "fashion_mnist": "fashion_mnist", "cifar10": "npz:cifar10_jpeg.npz"}

Row = tuple[object, ...]


class Images:
    """The first test images of each data set."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def first(self, data_set: str, count: int) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) and labels (N,)."""
        name = DATA_SETS[data_set]
        if name.startswith("npz:"):
            name = f"npz:{self.root / name.removeprefix('npz:')}"
        test = fr.data.load(name, self.root, splits=("test",))
        return test.x_test[:count], test.y_test[:count]


def floors(images: Images) -> Iterator[Row]:
    """Prediction 1: an attack away from the decision may correct a misclassified image."""
    yield (
        "data set",
        "wrong when clean",
        "of them right after BIM",
        "left, own decision",
        "true label",
    )
    for data_set in DATA_SETS:
        x, y = images.first(data_set, 500)
        model = fr.models.pretrained(data_set, CE)
        wrong = model.predict(x) != y
        attack = BIM(eps=0.2, loss="train")
        own, true = (attack.run(model, x, label).decision for label in (None, y))
        yield (
            NAMES[data_set], int(wrong.sum()), int(((own == y) & wrong).sum()),
            share(own == y), share(true == y),
        )  # fmt: skip


def standardised(images: Images) -> Iterator[Row]:
    """Prediction 8: the effect of clipping standardised images to [0, 1], without any attack."""
    yield "classifier", "clean", "clipped to [0, 1] after standardisation", "paper's CWL2, c = 0.01"
    x, y = images.first("cifar10", 1000)
    for name in MODEL_NAMES:
        model = fr.models.pretrained("cifar10", name)
        clipped = ((x - model.mean) / model.std).clamp(0, 1) * model.std + model.mean
        yield (
            name, share(model.predict(x) == y), share(model.predict(clipped) == y),
            printed.lookup(3, "cifar10", name, "CWL2", 0.01),
        )  # fmt: skip


def units_of_eps(images: Images) -> Iterator[Row]:
    """Prediction 8: the sign attacks with eps in standardised units and no box."""
    yield "classifier", "attack", "eps", "pixels", "standardised", "paper"
    x, y = images.first("cifar10", 200)
    for name in MODEL_NAMES:
        model = fr.models.pretrained("cifar10", name)
        bare = fr.Classifier(model.net, model.head)
        standard = (x - model.mean) / model.std
        for kind in (FGSM, BIM):
            for eps in (0.01, 0.05, 0.1, 0.2):
                pixels = kind(eps=eps, loss="train").run(model, x)
                other = kind(eps=eps, loss="train", clip=None).run(bare, standard)
                yield (
                    name, kind.__name__, eps, share(pixels.decision == y),
                    share(other.decision == y),
                    printed.lookup(3, "cifar10", name, kind.__name__, eps),
                )  # fmt: skip


def tolerance(images: Images) -> Iterator[Row]:
    """Prediction 5: L-BFGS stops where the gradient is small, which a squared error's is."""
    yield "classifier", "c", "gtol 1e-5", "gtol 1e-9", "clean images returned, 1e-5"
    x, y = images.first("mnist", 60)
    target = other_class(y)
    for name in (CE, MSE, CODED):
        model = fr.models.pretrained("mnist", name)
        for c in (0.01, 0.1, 1.0, 10.0):
            ends = [
                LBFGS(
                    initial_const=c, max_steps=200, view="units", gtol=gtol, on_failure="clean"
                ).run(model, x, target=target)
                for gtol in (1e-5, 1e-9)
            ]
            yield (name, c, *(share(end.success) for end in ends), share(ends[0].l2 == 0))


def divided_labels(images: Images) -> Iterator[Row]:
    """Prediction 6: a codeword over its sum is another target."""
    yield (
        "data set",
        "classes whose Y / sum(Y) decodes to themselves",
        "with a sum > 0",
        "MIM, eps 0.1: right",
        "MIM, label / sum",
    )
    for data_set in DATA_SETS:
        model = fr.models.pretrained(data_set, CODED)
        vectors = model.head.vectors
        sums = vectors.sum(1, keepdim=True)
        decoded, _ = fr.ops.decode((vectors / sums).contiguous(), vectors)
        x, y = images.first(data_set, 200)
        plain, divided = (
            MIM(eps=0.1, loss="train", label_sum_norm=flag).run(model, x) for flag in (False, True)
        )
        yield (
            NAMES[data_set], f"{int((decoded == torch.arange(10)).sum())} of 10",
            f"{int((sums > 0).sum())}", share(plain.decision == y), share(divided.decision == y),
        )  # fmt: skip


def from_the_minimum(images: Images) -> Iterator[Row]:
    """Prediction 7: an attack away from the own codeword starts where the loss is flat."""
    yield (
        "data set",
        "FGSM, eps 0.1",
        "Madry, steps 0.01",
        "Madry, steps 0.05",
        "Madry away from a rival's codeword",
        "|gradient|, own / rival's",
    )
    for data_set in DATA_SETS:
        model = fr.models.pretrained(data_set, CODED)
        x, y = images.first(data_set, 200)
        own = model.predict(x)
        rival = model(x).scatter(1, own[:, None], -torch.inf).argmax(1)
        small = PGD(eps=0.1, loss="train", step_size=0.01, steps=40, keep="last")
        large = PGD(eps=0.1, loss="train", step_size=0.05, steps=40, keep="last")
        ends = [attack.run(model, x) for attack in (FGSM(eps=0.1, loss="train"), small, large)]
        towards = small.run(model, x, target=rival)
        sizes = [gradient_size(model, x, label) for label in (own, rival)]
        yield (
            NAMES[data_set], *(share(end.decision == y) for end in ends),
            share(towards.decision == y), f"{sizes[0]:.1e} / {sizes[1]:.1e}",
        )  # fmt: skip


def effort(images: Images) -> Iterator[Row]:
    """200 steps of 0.05 in place of 1,000 of 0.01."""
    yield (
        "classifier",
        "attack",
        "200 x 0.05: success",
        "mean L2",
        "1,000 x 0.01: success",
        "mean L2",
    )
    x, y = images.first("mnist", 20)
    target = other_class(y)
    for name in (CE, CODED):
        model = fr.models.pretrained("mnist", name)
        for make in (CWL2, ModifiedCWL2):
            found = []
            for steps, rate in ((200, 0.05), (1000, 0.01)):
                attack = make(initial_const=0.1, max_steps=steps, learning_rate=rate)
                end = attack.run(model, x, target=target)
                length = float(end.l2[end.success].mean())
                found += [share(end.success), f"{length:.3f}"]
            yield (name, make.__name__, *found)


def literal(images: Images) -> Iterator[Row]:
    """Prediction 3: CWL2 with a codeword as label stops at once."""
    yield (
        "data set",
        "c",
        "success",
        "claims",
        "clean images returned",
        "evaluations of those there might be",
    )
    for data_set in ("mnist", "fashion_mnist"):
        model = fr.models.pretrained(data_set, CODED)
        x, y = images.first(data_set, 100)
        target = other_class(y)
        for c in (0.01, 0.1, 1.0, 10.0):
            attack = CWL2(
                initial_const=c, max_steps=200, learning_rate=0.05, view="units",
                on_failure="clean", abort_from=1e6,
            )  # fmt: skip
            end = attack.run(model, x, target=target)
            spent = float(end.queries.double().mean()) / (2 * 5 * 200)
            yield (
                NAMES[data_set], c, share(end.success), share(end.claimed), share(end.l2 == 0),
                f"{spent:.2f}",
            )  # fmt: skip


def unbounded(images: Images) -> Iterator[Row]:
    """What stops unbounded CWL2 on class scores: codewords, targeted, MNIST."""
    yield "attack", "success", "mean L2"
    x, y = images.first("mnist", 20)
    model = fr.models.pretrained("mnist", CODED)
    target = other_class(y)
    plain = {"initial_const": 10.0, "max_steps": 200, "learning_rate": 0.05}
    bypass, skip = (fr.engine.prepare(model).under(Surrogate(model.head, tanh=way))
                    for way in ("bypass", "skip"))  # fmt: skip
    for words, attack, attacked in (
        ("CWL2, 5 x 200 steps, c = 10", CWL2(**plain), model),
        ("no early end of a step of the search", CWL2(**plain, abort_early=False), model),
        ("9 steps of the search", CWL2(**plain, binary_search_steps=9), model),
        ("5 x 1,000 steps of 0.05", CWL2(**{**plain, "max_steps": 1000}), model),
        ("5 x 200 steps of 0.2", CWL2(**{**plain, "learning_rate": 0.2}), model),
        ("slope of tanh at least 0.1", CWL2(**plain), bypass),
        ("tanh left out", CWL2(**plain), skip),
        ("PGD, eps = 1, 100 steps", PGD(1.0, "margin", step_size=0.05, steps=100), model),
        ("PGD, eps = 1, tanh left out", PGD(1.0, "margin", step_size=0.05, steps=100), skip),
    ):
        adv = attack.run(attacked, x, target=target)
        hit = model.predict(adv.adv) == target
        yield words, share(hit), f"{float(adv.l2[hit].mean()):.2f}"


def overshoot(images: Images) -> Iterator[Row]:
    """Why DeepFool on class scores fails on some images: its result is not tested again."""
    yield "classifier", "overshoot", "left", "claimed, but not so"
    x, y = images.first("mnist", 200)
    for name in MODEL_NAMES:
        model = fr.models.pretrained("mnist", name)
        for value in (0.02, 0.1):
            end = DeepFool(max_steps=50, overshoot=value).run(model, x, y)
            yield name, value, share(end.decision == y), share(end.claimed & ~end.success)


def ends_of_the_box(images: Images) -> Iterator[Row]:
    """At pixels of 0 or 1 tanh is flat, so CWL2 cannot change them."""
    yield "data set", "pixels that are exactly 0 or 1"
    for data_set in DATA_SETS:
        x, _ = images.first(data_set, 1000)
        yield NAMES[data_set], share((x == 0) | (x == 1))


def gradient_size(model: fr.Classifier, x: Tensor, label: Tensor) -> float:
    """Return the mean Euclidean norm of the training loss's gradients by the images."""
    leaf = x.clone().requires_grad_()
    model.head.loss(model.pre_activation(leaf), label).sum().backward()
    model.zero_grad()
    return float(leaf.grad.flatten(1).norm(dim=1).mean())


def other_class(y: Tensor) -> Tensor:
    """Return one of the nine other classes for every label, each as often."""
    return (y + 1 + torch.arange(len(y)) % 9) % 10


def share(flags: Tensor) -> str:
    """Return the share of true flags as text."""
    return f"{float(flags.double().mean()):.3f}"


EXPERIMENTS: tuple[Callable[[Images], Iterator[Row]], ...] = (
    floors, literal, tolerance, divided_labels, from_the_minimum, standardised, units_of_eps,
    ends_of_the_box, unbounded, overshoot, effort,
)  # fmt: skip


def main() -> None:
    """Run the named experiments, and write all results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("names", nargs="*", choices=[one.__name__ for one in EXPERIMENTS] + [[]])
    arguments = parser.parse_args()
    store = HERE / "experiments.json"

    def kept() -> dict[str, list[list[str]]]:
        return json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}

    for experiment in EXPERIMENTS:
        name = experiment.__name__
        if name in arguments.names or (not arguments.names and name not in kept()):
            rows = [[str(word) for word in row] for row in experiment(Images(arguments.data_root))]
            # Read again: another process may have written its own.
            text = json.dumps({**kept(), name: rows}, indent=1) + "\n"
            store.write_text(text, encoding="utf-8")
            print(name, flush=True)
    results = kept()
    lines = ["# Experiments", "", "Written by `python results/experiments.py`."]
    for experiment in EXPERIMENTS:
        if rows := results.get(experiment.__name__):
            lines += ["", f"## {experiment.__name__}", "", str(experiment.__doc__), ""]
            lines += [
                "| " + " | ".join(row) + " |"
                for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])
            ]
    (HERE / "experiments.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
