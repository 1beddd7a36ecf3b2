"""Training is repeatable, resumes to the same bits, and reports when it does not work."""

import math
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastrobust as fr
from fastrobust import train
from fastrobust.data import load
from fastrobust.models import checkpoint
from fastrobust.train import training


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def few(digits):
    """Give the first 200 training and 50 test images: an epoch takes a twentieth of a second."""
    return replace(
        digits,
        x_train=digits.x_train[:200],
        y_train=digits.y_train[:200],
        x_test=digits.x_test[:50],
        y_test=digits.y_test[:50],
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def settings(model_name="R:TANH:MSE", **changes):
    return train.default_config("digits", model_name, **{"epochs": 4, "batch_size": 16, **changes})


def weights(path):
    return checkpoint.read_facts(path)["weights_digest"]


@pytest.fixture
def one_thread():
    """The command line trains digits with one thread; the weights depend on the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("model_name", train.MODEL_NAMES)
def test_the_papers_models_learn_digits(digits, path, model_name, one_thread):
    model = training.train(digits, model_name, train.default_config("digits", model_name), path)
    accuracy = (model.predict(digits.x_test) == digits.y_test).double().mean().item()
    assert accuracy >= 0.985
    assert checkpoint.read_facts(path)["accuracy"] == accuracy


@pytest.mark.filterwarnings("ignore:.*stalled")
@pytest.mark.parametrize("model_name", [*train.MODEL_NAMES, "O:LINEAR:MSE", "O:TANH:MSE"])
def test_one_step_is_nesterov_sgd_on_the_scaled_loss(few, path, model_name):
    config = settings(
        model_name, epochs=1, batch_size=200, shift=0, loss_scale=3.0, weight_decay=1.0
    )
    start = training.build(few, model_name, config)
    z = start.pre_activation(few.x_train)
    if model_name == "O:SOFTMAX:CE":
        loss = -z.log_softmax(1)[torch.arange(200), few.y_train]
    else:
        units = {"SOFTMAX": z.softmax(1), "TANH": z.tanh(), "LINEAR": z}[model_name.split(":")[1]]
        targets = start.head.vectors if model_name == "R:TANH:MSE" else torch.eye(10)
        loss = (units - targets[few.y_train]).pow(2).sum(1) / units.shape[1]
    names, parameters = zip(*start.named_parameters(), strict=True)
    gradients = torch.autograd.grad(3 * loss.sum() / 200, parameters)
    trained = dict(training.train(few, model_name, config, path).named_parameters())
    for name, p, gradient in zip(names, parameters, gradients, strict=True):
        decay = 1 if p.dim() > 1 else 0
        expected = p - config.peak_lr / 25 * (1 + 0.9) * (gradient + decay * p)
        torch.testing.assert_close(trained[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_one_cycle_is_that_of_torch():
    config, steps = settings(peak_lr=0.3, warm_up=0.2), 10_000
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    for step in range(steps):
        assert training.one_cycle(step / steps, config) == pytest.approx(
            schedule.get_last_lr()[0], abs=1e-3
        )
        optimizer.step()
        schedule.step()


def test_same_seed_same_weights_and_global_generators_untouched(few, tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    torch.manual_seed(1)
    random = torch.get_rng_state()
    training.train(few, "R:TANH:MSE", settings(), a)
    assert torch.equal(torch.get_rng_state(), random)
    torch.manual_seed(2)
    training.train(few, "R:TANH:MSE", settings(), b)
    training.train(few, "R:TANH:MSE", settings(), c, seed=1)
    assert weights(a) == weights(b) != weights(c)
    first, other = (
        training.build(few, "O:SOFTMAX:CE", settings(), seed).net.stem for seed in (0, 1)
    )
    assert not torch.equal(first.weight, other.weight)


@pytest.mark.filterwarnings("ignore:.*stalled")
def test_every_epoch_and_seed_has_its_own_random_numbers(few, path, monkeypatch):
    seen, augment = [], training.augment

    def spy(x, shift, flip, generator):
        seen.append(generator.initial_seed())
        return augment(x, shift, flip, generator)

    monkeypatch.setattr(training, "augment", spy)
    for seed in (0, 1):
        training.train(few, "R:TANH:MSE", settings(epochs=3), path, seed=seed)
    assert len(set(seen)) == 6


@contextmanager
def interrupted(epochs_done):
    """Return a progress that stops the training once `epochs_done` epochs are kept."""

    class Tracker:
        done = 0

        def note(self, text):
            assert "loss" in text

        def advance(self, n=1):
            self.done += n
            if self.done == epochs_done:
                raise KeyboardInterrupt

    def progress(total, description):
        tracker = Tracker()
        return contextmanager(lambda: (yield tracker))()

    yield progress


@pytest.mark.parametrize("epochs_done", [1, 3, 4])
def test_a_stopped_training_goes_on_to_the_same_weights(few, tmp_path, epochs_done):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    training.train(few, "R:TANH:MSE", settings(), whole)
    with interrupted(epochs_done) as progress, pytest.raises(KeyboardInterrupt):
        training.train(few, "R:TANH:MSE", settings(), stopped, progress=progress)
    assert not stopped.exists() and (tmp_path / "stopped.resume").exists()
    training.train(few, "R:TANH:MSE", settings(), stopped)
    assert weights(stopped) == weights(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stopped", "whole"]


TRAIN_UNTIL_KILLED = """
    import sys, torch
    from contextlib import contextmanager
    from fastrobust import data, train

    class Tracker:
        def note(self, text): print(text, flush=True)
        def advance(self, n=1): pass

    _, images, path, threads = sys.argv
    torch.set_num_threads(int(threads))
    progress = lambda total, description: contextmanager(lambda: (yield Tracker()))()
    config = train.default_config("digits", "O:SOFTMAX:MSE", batch_size=16, epochs=9)
    train.train(data.load(images), "O:SOFTMAX:MSE", config, path, progress=progress)
"""


def test_sigkill_in_the_middle_costs_no_bit(few, tmp_path):
    arrays = {
        name: (getattr(few, name).numpy() * (255 if name.startswith("x") else 1)).squeeze()
        for name in ("x_train", "y_train", "x_test", "y_test")
    }
    np.savez(tmp_path / "few.npz", **{n: a.astype(np.uint8) for n, a in arrays.items()})
    images, killed, whole = f"npz:{tmp_path}/few.npz", tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", textwrap.dedent(TRAIN_UNTIL_KILLED), images, str(killed)]
    with subprocess.Popen(
        [*command, str(torch.get_num_threads())], stdout=subprocess.PIPE
    ) as child:
        for _ in range(3):  # three epochs are kept, the fourth is under way
            assert child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "killed.resume").exists() and not killed.exists()
    for path in (killed, whole):
        training.train(load(images), "O:SOFTMAX:MSE", settings("O:SOFTMAX:MSE", epochs=9), path)
    assert weights(killed) == weights(whole)


def stop(few, path, **changes):
    """Leave the state of a training after its first epoch and return where it is."""
    with interrupted(1) as progress, pytest.raises(KeyboardInterrupt):
        training.train(few, "R:TANH:MSE", settings(**changes), path, progress=progress)
    return path.with_name(path.name + ".resume")


@pytest.mark.parametrize(
    "name, seed, changes, difference",
    [
        ("R:TANH:MSE", 1, {}, "seed was 0, now 1"),
        ("R:TANH:MSE", 0, {"epochs": 5}, "epochs was 4, now 5"),
        ("R:TANH:MSE", 0, {"code_key": "another"}, "codewords was"),
        ("O:SOFTMAX:MSE", 0, {}, "model_name was 'R:TANH:MSE', now 'O:SOFTMAX:MSE'"),
    ],
)
def test_the_state_of_another_training_is_refused(few, path, name, seed, changes, difference):
    state = stop(few, path)
    with pytest.raises(fr.CheckpointError, match=f"{state}.*{difference}.*delete the file"):
        training.train(few, name, settings(**changes), path, seed=seed)
    assert state.exists()


def test_a_damaged_state_is_refused(few, path):
    state = stop(few, path)
    content = state.read_bytes()
    for damaged in (b"", content[:-1], content[:-9] + b"?" + content[-8:], b"foreign"):
        state.write_bytes(damaged)
        with pytest.raises(fr.CheckpointError, match="damaged or foreign file; delete it"):
            training.train(few, "R:TANH:MSE", settings(), path)


def test_the_key_draws_the_codewords_and_is_stored_nowhere(few, path):
    key = "correct horse battery staple"
    state = stop(few, path, code_key=key, code_length=16)
    assert key.encode() not in state.read_bytes()
    config = settings(code_key=key, code_length=16)
    model = training.train(few, "R:TANH:MSE", config, path)
    assert torch.equal(model.head.vectors, fr.Codebook.random(10, 16, key).vectors)
    assert key.encode() not in path.read_bytes() and key not in repr(config)
    without = training.build(few, "R:TANH:MSE", settings())
    assert torch.equal(without.head.vectors, fr.Codebook.random(10, 128, "seed 0").vectors)


def test_the_checkpoint_says_where_it_comes_from(few, path):
    model = training.train(few, "O:SOFTMAX:MSE", settings("O:SOFTMAX:MSE"), path, seed=7)
    facts = checkpoint.read_facts(path)
    assert facts["model_name"] == "O:SOFTMAX:MSE" and facts["seed"] == 7
    assert (facts["data_set"], facts["digest"]) == ("digits", few.digest)
    assert facts["config"]["loss_scale"] == settings("O:SOFTMAX:MSE").loss_scale
    std = few.x_train.numpy().std()
    assert facts["normalisation"]["std"] == pytest.approx([std], rel=1e-5)
    assert torch.equal(checkpoint.load(path)(few.x_test), model(few.x_test))
    assert not model.training


def test_a_stalled_training_says_so_once(few, path):
    with pytest.warns(UserWarning, match="R:TANH:MSE stalled.*chance is 0.1.*loss_scale") as seen:
        training.train(few, "R:TANH:MSE", settings(peak_lr=1e-9), path)
    assert len(seen) == 1 and seen[0].filename == __file__


def test_a_diverging_training_stops_and_can_start_over(few, path):
    with pytest.raises(RuntimeError, match="finite loss, got (nan|inf) in epoch 1; lower peak_lr"):
        training.train(few, "O:SOFTMAX:CE", settings("O:SOFTMAX:CE", peak_lr=1e30), path)
    assert not list(path.parent.iterdir())


def test_both_splits_are_needed(digits, path):
    test_only = load("digits", splits=("test",))
    with pytest.raises(ValueError, match="must hold training images, got none"):
        training.train(test_only, "R:TANH:MSE", settings(), path)


def test_shift_and_flip_give_every_moved_image_and_no_other():
    x = torch.arange(1, 1 + 2 * 3 * 4.0).reshape(1, 2, 3, 4)
    padded = np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    moved = [padded[:, i : i + 3, j : j + 4] for i in range(3) for j in range(3)]
    expected = {image.tobytes() for still in moved for image in (still, still[:, :, ::-1].copy())}
    generator = torch.Generator().manual_seed(0)
    out = training.augment(x.expand(1000, -1, -1, -1), 1, True, generator)
    assert {image.tobytes() for image in out.numpy()} == {image for image in expected}
    assert len(expected) == 18
    same = training.augment(x, 0, False, generator)
    assert torch.equal(same, x)


def test_augment_gives_the_same_pixels_on_every_device(device):
    x = torch.rand(50, 3, 7, 5)
    expected = training.augment(x, 2, True, torch.Generator().manual_seed(3))
    out = training.augment(x.to(device), 2, True, torch.Generator().manual_seed(3))
    assert torch.equal(out.cpu(), expected)


def test_training_runs_on_every_device(few, path, device):
    model = training.train(few, "R:TANH:MSE", settings(), path, device=device)
    assert model(few.x_test.to(device)).device.type == device.type
    assert torch.equal(checkpoint.load(path).predict(few.x_test), model.cpu().predict(few.x_test))


@pytest.mark.parametrize("data_set", ["digits", "mnist", "fashion_mnist", "cifar10", "npz:a.npz"])
@pytest.mark.parametrize("model_name", train.MODEL_NAMES)
def test_every_data_set_has_settings(data_set, model_name):
    config = train.default_config(data_set, model_name, epochs=3)
    assert config.epochs == 3
    assert config.net == ("digits" if data_set == "digits" else "40-12")
    assert config.flip == (data_set in ("fashion_mnist", "cifar10"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"shift": -1}, "shift must be >= 0"),
        ({"peak_lr": math.nan}, "peak_lr must be > 0 and finite, got nan"),
        ({"loss_scale": 0.0}, "loss_scale must be > 0"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0"),
        ({"warm_up": 1.0}, r"warm_up must lie in \(0, 1\), got 1.0"),
        ({"precision": "fp16"}, "precision must be fp32 or bf16, got 'fp16'"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_unknown_models_and_fields_are_refused(few, path):
    with pytest.raises(ValueError, match="the model must be one of O:SOFTMAX:CE.*got 'O:TANH'"):
        train.default_config("digits", "O:TANH")
    with pytest.raises(ValueError, match="the model must be one of"):
        training.train(few, "O:TANH", settings(), path)
    with pytest.raises(TypeError, match="lr"):
        settings(lr=0.1)


def test_slugs():
    assert [train.slug(name) for name in train.MODEL_NAMES] == [
        "o-softmax-ce",
        "o-softmax-mse",
        "r-tanh-mse",
    ]
    assert train.slug("R:TANH:MSE:64") == "r-tanh-mse-64"


@pytest.mark.filterwarnings("ignore:.*stalled")
@pytest.mark.parametrize("length", [64, 256, 1024])
def test_a_length_behind_the_name_is_that_of_the_codewords(few, path, length):
    name = f"R:TANH:MSE:{length}"
    config = train.default_config("digits", name, epochs=1)
    assert config == train.default_config("digits", "R:TANH:MSE", epochs=1, code_length=length)
    model = training.train(few, name, config, path)
    assert model.head.vectors.shape == (10, length)
    assert model.units(few.x_test[:2]).shape == (2, length)
    assert checkpoint.read_facts(path)["model_name"] == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("R:TANH:MSE:128", "must be R:TANH:MSE, whose codewords have 128 units"),
        ("R:TANH:MSE:064", "must be one of"),
        ("R:TANH:MSE:", "must be one of .*or R:TANH:MSE:<codeword length>"),
        ("O:SOFTMAX:CE:64", "must be one of"),
    ],
)
def test_other_lengths_are_refused(name, words):
    with pytest.raises(ValueError, match=words):
        train.default_config("digits", name)


def test_the_length_of_the_name_and_of_the_settings_are_one(few, path):
    with pytest.raises(ValueError, match="must have the code_length of R:TANH:MSE:64, got 128"):
        training.train(few, "R:TANH:MSE:64", settings(), path)


@pytest.mark.filterwarnings("ignore:.*stalled")
def test_bfloat16_trains_float32_weights_much_like_float32(few, tmp_path):
    losses, weights = [], []
    for precision in ("fp32", "bf16"):
        config = settings(epochs=2, precision=precision)
        path = tmp_path / f"{precision}.safetensors"
        model = training.train(few, "R:TANH:MSE", config, path)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        with torch.no_grad():
            z = model.pre_activation(few.x_train)
            losses.append(float(model.head.loss(z, few.y_train).mean()))
        weights.append(model.net.linear.weight.detach())
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    gap = float((weights[1] - weights[0]).norm() / weights[0].norm())
    assert 1e-4 < gap < 0.2  # autocast was on, and the weights are close
