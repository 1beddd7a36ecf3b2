"""Other defences by the same loop: heads that decode, and training on images under attack."""

import hashlib
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastrobust as fr
from fastrobust import attacks
from fastrobust.data import DataSet, load
from fastrobust.models import checkpoint
from fastrobust.models.classifier import Classifier
from fastrobust.ops.random_start_op import random_start_ref_
from fastrobust.train import classifiers, missing, recipes, training
from fastrobust.utils.text import slug

PGD = "O:SOFTMAX:CE:PGD"
ATTACK = "PGD(eps=0.1, loss='train', step_size=0.04, steps=3, keep='last')"


@pytest.fixture(scope="module")
def few():
    """Give the first 200 training and 50 test images."""
    digits = load("digits")
    parts = {"x_train": 200, "y_train": 200, "x_test": 50, "y_test": 50}
    return replace(digits, **{name: getattr(digits, name)[:n] for name, n in parts.items()})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def settings(**changes):
    return recipes.default_config(
        "digits", PGD, **{"epochs": 3, "batch_size": 32, "attack": ATTACK, **changes}
    )


@pytest.mark.filterwarnings("ignore:.*stalled")
@pytest.mark.parametrize("name", classifiers.DEFENCE_NAMES)
def test_heads_decode_as_their_names_say(few, path, name):
    model = training.train(few, name, recipes.default_config("digits", name, epochs=1), path)
    z = model.pre_activation(few.x_test).detach().double().numpy()
    units, target = (np.tanh(z), np.eye(10)) if "TANH" in name else (z, None)
    if target is None:
        decided = units.argmax(1)
    else:
        decided = ((units[:, None] - target) ** 2).sum(2).argmin(1)
    assert np.array_equal(model.predict(few.x_test), decided)
    assert np.array_equal(model(few.x_test).argmax(1), decided)
    if "SOFTMAX" not in name:
        right = np.eye(10)[few.y_test]
        loss = model.head.loss(torch.tensor(z), few.y_test)
        np.testing.assert_allclose(loss, ((units - right) ** 2).mean(1), rtol=1e-6)
    again = checkpoint.load(path)
    assert type(again.head) is type(model.head)
    assert torch.equal(again(few.x_test), model(few.x_test))
    facts = checkpoint.read_facts(path)
    assert facts["model_name"] == name
    assert facts["config"]["attack"] == (recipes._ATTACKS["digits"] if name == PGD else None)


@pytest.mark.parametrize("name", ["O:LINEAR:MSE", "O:TANH:MSE"])
def test_the_heads_learn_digits(path, name):
    digits = load("digits")
    model = training.train(digits, name, recipes.default_config("digits", name, epochs=8), path)
    assert (model.predict(digits.x_test) == digits.y_test).double().mean() > 0.95


def start_of(seed, epoch):
    """The seed of an epoch's random starts, computed independently."""
    return int.from_bytes(hashlib.sha256(f"{seed} attack {epoch}".encode()).digest()[:4], "little")


def by_autograd(model, x, y, attack, seed, index):
    """PGD in plain PyTorch on the cross-entropy of a module in its present mode."""
    adv = random_start_ref_(torch.empty_like(x), x, "linf", attack.eps, seed, index, 0)
    for _ in range(attack.steps):
        adv.requires_grad_()
        loss = torch.nn.functional.cross_entropy(model.pre_activation(adv), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, adv)
        adv = adv.detach() + attack.step_size * gradient.sign()
        adv = torch.minimum(torch.maximum(adv, x - attack.eps), x + attack.eps).clamp(0, 1)
    return adv


@pytest.mark.filterwarnings("ignore:.*stalled")
def test_one_step_is_that_of_the_attacked_images(few, path):
    config = settings(epochs=1, batch_size=200, shift=0, weight_decay=0.0)
    model = training.build(few, PGD, config, seed=5)
    index = torch.arange(200)
    adv = by_autograd(
        model.eval(), few.x_train, few.y_train, attacks.from_repr(ATTACK), start_of(5, 0), index
    )
    z = model.train().pre_activation(adv)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(z, few.y_train), parameters)
    trained = training.train(few, PGD, config, path, seed=5)
    moved = dict(trained.named_parameters())
    for name, p, gradient in zip(names, parameters, gradients, strict=True):
        # The engine's gradients and autograd's differ in the sign of a few tiny entries.
        step = (p - moved[name]) / (config.peak_lr / 25 * 1.9)
        assert (step - gradient).norm() <= 0.01 * gradient.norm() + 1e-6, name
    # The attack has moved no running statistics: they have seen one batch, the attacked one.
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(
            dict(trained.named_buffers())[name], buffer, rtol=1e-3, atol=1e-4
        )
    assert int(trained.net.norm.num_batches_tracked) == 1


@pytest.fixture
def seen(monkeypatch):
    """Each batch before the attack, the images trained on, and the arguments of the attack."""
    batches = {"clean": [], "trained": [], "asked": []}
    augment, pre_activation, run = training.augment, Classifier.pre_activation, attacks.PGD.run

    def spy_on_augment(*given):
        batches["clean"].append(augment(*given))
        return batches["clean"][-1].clone()

    def spy_on_training(self, x, net=None):
        if self.training:
            batches["trained"].append(x.clone())
        return pre_activation(self, x, net)

    def spy_on_attack(self, model, x, y, **options):
        flags = [m.training for m in model.modules()]
        result = run(self, model, x, y, **options)
        assert flags == [m.training for m in model.modules()] and all(flags)
        assert all(p.requires_grad for p in model.parameters())
        batches["asked"].append((options["seed"], options["index"].tolist(), y))
        return result

    monkeypatch.setattr(training, "augment", spy_on_augment)
    monkeypatch.setattr(Classifier, "pre_activation", spy_on_training)
    monkeypatch.setattr(attacks.PGD, "run", spy_on_attack)
    return batches


@pytest.mark.filterwarnings("ignore:.*stalled")
def test_training_images_stay_in_the_ball_and_the_box(few, path, seen):
    training.train(few, PGD, settings(), path)
    assert len(seen["clean"]) == len(seen["trained"]) == 3 * 7
    for clean, attacked in zip(seen["clean"], seen["trained"], strict=True):
        change = (attacked - clean).abs()
        assert change.max() <= 0.1 + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
        # Three steps of 0.04 from anywhere in the ball: most pixels that can end at its edge.
        assert (change > 0.09).double().mean() > 0.2


@pytest.mark.filterwarnings("ignore:.*stalled")
def test_starts_are_keyed_by_seed_epoch_and_image(few, path, seen):
    for seed in (0, 1):
        training.train(few, PGD, settings(), path, seed=seed)
    starts = [start for start, _, _ in seen["asked"]]
    wanted = [start_of(seed, epoch) for seed in (0, 1) for epoch in range(3) for _ in range(7)]
    assert starts == wanted and len(set(starts)) == 6
    for first in range(0, len(starts), 7):
        index = [i for _, rows, _ in seen["asked"][first : first + 7] for i in rows]
        assert sorted(index) == list(range(200)) != index
    for _, rows, y in seen["asked"]:
        assert torch.equal(y, few.y_train[rows])


@contextmanager
def stopping(after):
    """Give a progress that stops once so many epochs are kept."""

    class Tracker:
        left = after

        def note(self, text):
            pass

        def advance(self, n=1):
            self.left -= n
            if self.left == 0:
                raise KeyboardInterrupt

    yield lambda total, description: contextmanager(lambda: (yield Tracker()))()


@pytest.mark.filterwarnings("ignore:.*stalled")
@pytest.mark.parametrize("after", [1, 2])
def test_a_stopped_adversarial_training_goes_on_to_the_same_bits(few, tmp_path, after):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    random = torch.get_rng_state()
    training.train(few, PGD, settings(), whole)
    with stopping(after) as progress, pytest.raises(KeyboardInterrupt):
        training.train(few, PGD, settings(), stopped, progress=progress)
    torch.manual_seed(77)
    training.train(few, PGD, settings(), stopped)
    digests = [checkpoint.read_facts(p)["weights_digest"] for p in (whole, stopped)]
    assert digests[0] == digests[1]
    torch.set_rng_state(random)


@pytest.mark.filterwarnings("ignore:.*stalled")
def test_the_state_of_a_training_under_another_attack_is_refused(few, path):
    with stopping(1) as progress, pytest.raises(KeyboardInterrupt):
        training.train(few, PGD, settings(), path, progress=progress)
    other = settings(attack=ATTACK.replace("steps=3", "steps=4"))
    with pytest.raises(fr.CheckpointError, match=r"attack was .PGD.*steps=3.*now .*steps=4"):
        training.train(few, PGD, other, path)


def strong_and_weak(count, seed):
    """Two classes: a bright half that predicts nine of ten labels, faint pixels that predict all.

    The data of Tsipras et al. 2019 (arXiv 1805.12152, section 2.1) as images: a step of 0.1 turns
    every faint pixel round, and leaves the halves apart.
    """
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, count)
    side = np.where(random.random(count) < 0.9, y, 1 - y)
    x = np.full((count, 1, 8, 8), 0.5) + random.normal(0, 0.02, (count, 1, 8, 8))
    x[:, 0, :4] += np.where(side, 0.25, -0.25)[:, None, None]
    x[:, 0, 4:] += np.where(y, 0.05, -0.05)[:, None, None]
    return torch.tensor(x.clip(0, 1), dtype=torch.float32), torch.tensor(y)


def test_adversarial_training_makes_a_net_robust(tmp_path):
    (x, y), (x_test, y_test) = strong_and_weak(320, 0), strong_and_weak(200, 1)
    made_up = DataSet("made up", x, y, x_test, y_test, 2, "0" * 64, ("0", "1"))
    left = {}
    for name, attack in ((PGD, ATTACK), ("O:SOFTMAX:CE", None)):
        config = settings(epochs=8, peak_lr=0.1, shift=0, attack=attack)
        model = training.train(made_up, name, config, tmp_path / slug(name))
        result = attacks.PGD(eps=0.1, steps=20).run(model, x_test, y_test)
        left[name] = 1 - result.success.double().mean().item()
    assert left["O:SOFTMAX:CE"] < 0.3 and left[PGD] > 0.8


@pytest.mark.parametrize(
    ("data_set", "attack"),
    [
        ("digits", (0.2, 0.05, 7)),
        ("mnist", (0.3, 0.01, 40)),
        ("fashion_mnist", (0.1, 0.025, 10)),
        ("cifar10", (8 / 255, 2 / 255, 7)),
        ("npz:a.npz", (8 / 255, 2 / 255, 7)),
    ],
)
def test_every_data_set_has_its_attack(data_set, attack):
    made = attacks.from_repr(recipes.default_config(data_set, PGD).attack)
    assert (made.eps, made.step_size, made.steps) == attack
    assert (made.loss, made.keep, made.random_start, made.norm, made.clip) == (
        "train", "last", True, "linf", (0, 1),
    )  # fmt: skip
    for name in classifiers.MODELS:
        config = recipes.default_config(data_set, name)
        assert (config.attack is None) == (name != PGD)


@pytest.mark.parametrize(
    ("name", "attack", "words"),
    [
        (PGD, None, f"config must have an attack for {PGD}, got None"),
        ("O:SOFTMAX:CE", ATTACK, "config must have no attack for O:SOFTMAX:CE, got PGD"),
    ],
)
def test_name_and_settings_agree_on_the_attack(few, path, name, attack, words):
    with pytest.raises(ValueError, match=words):
        training.train(few, name, settings(attack=attack), path)


def test_settings_refuse_what_is_no_attack():
    with pytest.raises(ValueError, match="an attack must be one of .*got 'PDG'"):
        settings(attack="PDG(eps=0.1)")
    with pytest.raises(TypeError, match="PGD must have fields among"):
        settings(attack="PGD(epsilon=0.1)")


def test_the_longest_training_comes_first(tmp_path, monkeypatch):
    from fastrobust.paper import presets

    order = []
    monkeypatch.setattr(missing, "train", lambda data, name, *rest, **named: order.append(name))
    plan = presets.make("quick", tables=[9])
    with pytest.raises(FileNotFoundError):  # nothing has been written
        missing.train_missing(plan, tmp_path)
    assert order[:6] == [PGD, *(name for name in plan.models if name != PGD)]


@pytest.mark.filterwarnings("ignore:.*stalled")
def test_adversarial_training_runs_on_every_device(few, path, device):
    model = training.train(few, PGD, settings(epochs=1), path, device=device)
    assert torch.equal(checkpoint.load(path).predict(few.x_test), model.cpu().predict(few.x_test))
