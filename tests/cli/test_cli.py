import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
from tiny_run import data_set, prepare

from fastrobust import __version__
from fastrobust.cli import app
from fastrobust.report.claims import norms
from fastrobust.runs.folder import checkpoint_path
from fastrobust.runs.plan import Cell
from fastrobust.sweep import runner
from fastrobust.train import missing


@pytest.fixture
def run(tmp_path):
    plan, out = prepare(tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan.to_json()))
    return plan, out, path


@pytest.fixture
def command(capsys):
    """Return a function that runs a command line: its exit code, stdout, stderr."""

    threads = torch.get_num_threads()

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            app.main([str(word) for word in words])
        torch.set_num_threads(threads)  # a command sets those of its own process
        shown = capsys.readouterr()
        return stop.value.code or 0, shown.out, shown.err

    return call


COMMANDS = (
    "paper", "train", "sweep", "report", "evaluate", "check", "attack", "info", "lipschitz",
)  # fmt: skip


def test_help_and_version(command):
    code, out, _ = command("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    assert command()[1] == out
    code, out, _ = command("--version")
    assert code == 0 and out.startswith(f"fastrobust {__version__} (")
    for name in COMMANDS:
        code, out, _ = command(name, "--help")
        assert code == 0 and "--debug" in out


def test_help_is_whole_sentences_without_line_breaks():
    commands = typer.main.get_command(app.app).commands
    assert tuple(commands) == COMMANDS
    for command in commands.values():
        for text in (*command.help.split("\n\n"), *(option.help for option in command.params)):
            assert text[0].isupper() and text[-1] == "." and not text.startswith("Of ")
            assert "\n" not in text


def test_sweep_of_a_plan_then_report(command, run):
    plan, out, path = run
    code, shown, err = command("sweep", "--plan", path, "--out", out)
    assert code == 0, err
    assert "Table 3" in shown and "R:TANH:MSE" in shown and str(out / "report.html") in shown
    code, shown, _ = command("sweep", "--plan", path, "--out", out, "--json")
    found = json.loads(shown)
    assert code == 0 and found["measured"] == 0 and found["reused"] == len(plan.cells)
    assert found["page"] == str(out / "report.html")
    code, shown, _ = command("report", out)
    assert code == 0 and "Table 5" in shown
    code, shown, _ = command("info", out, "--json")
    assert json.loads(shown)["measured"] == len(plan.cells)


def test_failed_cells_are_named_and_exit_1(command, run):
    plan, out, path = run
    bad = Cell(3, "FGSM", "eps", 0.3, "R:TANH:MSE", "FGSM(eps=0.3, clip=(0.4, 0.6))")
    path.write_text(json.dumps(replace(plan, cells=(*plan.cells, bad)).to_json()))
    code, shown, err = command("sweep", "--plan", path, "--out", out)
    assert code == 1
    assert "failed experiments: 1" in err and f"{bad.attack} on {bad.model}: ValueError" in err
    assert (out / "report.html").exists()


def test_show_plan(command):
    code, shown, _ = command("sweep", "--show-plan", "--tables", "4,5", "--limit", 9, "--seed", 3)
    found = json.loads(shown)
    assert code == 0 and (found["limit"], found["seed"]) == (9, 3)
    assert {cell["table"] for cell in found["cells"]} == {4, 5}


NET_40 = "fastrobust.models:densenet"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sweep", "--tables", "3;5"],
            "'--tables': must be numbers separated by commas, got '3;5'",
        ),
        (["paper", "--tables", "10"], "tables must be among (1, 3, 4, 5, 6, 7, 8, 9), got [10]"),
        (["paper", "--without", "speed"], "without must be among first-success, shared-const"),
        (["paper", "--preset", "slow"], "preset must be one of ('paper', 'quick', 'cpu')"),
        (["paper", "--evaluate", "hard"], "'--evaluate': must be one of quick, standard, thorough"),
        (["paper", "--attacks", "Pgd"], "attacks must be among BIM, CWL2, "),
        (["paper", "--precision", "fp16"], "precision must be one of fp32, tf32, bf16, got 'fp16'"),
        (["paper", "--precision", "tf32"], "on a GPU"),
        (["paper", "--like", "svhn"], "like must be one of digits, mnist, "),
        (["paper", "--limit", "0"], "--limit"),
        (["paper", "--colour"], "No such option"),
        (["publish"], "No such command"),
        (["report", "/nowhere"], "/nowhere must be a run folder"),
        (["sweep", "--plan", "/nowhere.json"], "/nowhere.json"),
        (["sweep", "--out", "/nowhere"], "train it with"),
        (["train", "O:SOFTMAX:MAE"], "the model must be one of O:SOFTMAX:CE, "),
        (["train", "--model", "R:TANH:PGD"], "or R:TANH:MSE:<codeword length>, got 'R:TANH:PGD'"),
        (["attack", "/nowhere.safetensors", "BIM(eps=0.1)"], "/nowhere.safetensors"),
        (["attack", "json:loads", "BOM(eps=0.1)"], "BOM"),
        (["attack", "nowhere_at_all:net", "BIM(eps=0.1)"], "nowhere_at_all"),
        (["attack", "builtins:dict", "BIM(eps=0.1)"], "must return a torch.nn.Module, got dict"),
        (["info", "/nowhere"], "/nowhere"),
        (["lipschitz", "/nowhere"], "/nowhere must be a checkpoint, got no such file"),
        (["info", "--model", "/nowhere"], "/nowhere must be a checkpoint, got no such file"),
        (["info", "runs", "--model", "x"], "not both, got runs and --model x"),
        (["lipschitz", "/nowhere", "--image", "1x8x8"], "/nowhere must be a checkpoint, got no"),
        (["lipschitz", ".", "--image", "1x8x8"], ". must be a run folder with checkpoints"),
        (["lipschitz", NET_40], "--image must be a shape such as 3x32x32, got none"),
        (["lipschitz", NET_40, "--eps", "0.1"], "--eps must come with --data-set, got none"),
        (["lipschitz", NET_40, "--eps", "0.1;1"], "'--eps': must be numbers >= 0 separated by"),
        (["lipschitz", NET_40, "--eps", "-1"], "'--eps': must be numbers >= 0 separated by"),
        (["info", "--model", NET_40], "--image must be a shape such as 3x32x32, got none"),
        (["info", "--model", NET_40, "--image", "32"], "such as 3x32x32, got 32"),
        (["info", "--model", NET_40, "--image", "3x8x8", "--precision", "tf32"], "on a GPU"),
        (["attack", NET_40, "FGSM(eps=0.1)", "--precision", "fp8"], "fp32 | tf32 | bf16, got"),
        (["check", "/nowhere.csv"], "/nowhere.csv must be a file of tables, got no such file"),
        (["check", "papers"], "tables must be the word paper, a .json or .csv file or a run"),
        (["check", "paper", "--rule", "luck"], "rule must be one of one-step, weaker, targeted, "),
        (["check", "paper", "--classes", "1"], "--classes"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(command, words, message):
    code, out, err = command(*words)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_debug_shows_where():
    with pytest.raises(ValueError, match="tables must be among"):
        app.main(["paper", "--tables", "10", "--debug"])


NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""


def test_attack_on_a_checkpoint_and_on_a_callable(command, run, tmp_path, monkeypatch):
    plan, out, _ = run
    checkpoint = checkpoint_path(out, "R:TANH:MSE")
    (tmp_path / "my_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    saved = tmp_path / "adv.npz"
    for model in (checkpoint, "my_net:make"):
        for extra in ([], ["--targeted"]):
            words = ["attack", model, "PGD(eps=0.3, steps=3)", "--data-set", plan.data_set]
            code, shown, err = command(*words, "--save", saved, "--json", "--limit", 11, *extra)
            assert code == 0, err
            found = json.loads(shown)
            assert found["attack"] == "PGD(eps=0.3, steps=3)" and found["images"] == 11
            with np.load(saved) as arrays:
                assert arrays["adv"].shape == (11, 1, 8, 8)
                assert found["success"] == pytest.approx(arrays["success"].mean(), abs=1e-4)
                assert ("target" in arrays) == bool(extra)
    code, shown, _ = command("attack", "my_net:make", "FGSM(eps=0)", "--data-set", plan.data_set)
    assert code == 0 and "clean_accuracy" in shown


def test_info_of_this_build_and_of_a_checkpoint(command, run):
    _, out, _ = run
    code, shown, _ = command("info", "--json")
    assert code == 0 and json.loads(shown)["version"] == __version__
    code, shown, _ = command("info", checkpoint_path(out, "O:SOFTMAX:CE"), "--json")
    assert code == 0 and json.loads(shown)["seed"] == 0


def test_info_of_how_a_model_is_attacked(command, run, tmp_path, monkeypatch):
    plan, out, _ = run
    checkpoint = checkpoint_path(out, "O:SOFTMAX:CE")
    code, shown, err = command("info", "--model", checkpoint, "--image", "1x8x8", "--json")
    found = json.loads(shown)
    assert code == 0 and (found["engine"], found["precision"]) == ("fused", "fp32"), err
    assert found["why"] == "a DenseNet of fastrobust.models"
    assert found["images_per_second"] > 0 and found["autograd_images_per_second"] > 0
    (tmp_path / "my_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    code, shown, _ = command("info", "--model", "my_net:make", "--image", "1x8x8")
    assert code == 0 and "autograd" in shown and "a Sequential, not a DenseNet" in shown


def test_lipschitz_of_a_run_folder(command, run):
    plan, out, _ = run
    words = ["lipschitz", out, "--image", "1x8x8"]
    code, shown, err = command(*words)
    assert code == 0, err
    assert "blocks.0.0.grow.conv" in shown and "Lipschitz bounds of the class scores" in shown
    assert norms.CAVEAT in shown and str(out / "lipschitz.svg") in shown
    assert (out / "lipschitz.svg").read_text().startswith("<svg")
    runner.run(plan, out)  # whose images say how large they are
    assert command("lipschitz", out)[1] == shown
    code, shown, err = command(
        *words, "--data-set", plan.data_set, "--limit", 4, "--eps", "0.1,1", "--json"
    )
    found = json.loads(shown)
    assert code == 0 and len(found["models"]) == 2, err
    for model in found["models"].values():
        assert 0 < model["lower_bound"] < math.exp(model["log_bound"])
        assert len(model["images"]["radius"]) == 4
        assert [one["eps"] for one in model["inequalities"]] == [0.1, 1.0]
        assert all(one["holds"] for one in model["inequalities"])
        assert {"raw", "log_chain", "folded", "scale_free", "bound"} <= set(model["layers"][0])


def test_lipschitz_of_checkpoints_and_callables(command, run, tmp_path, monkeypatch):
    _, out, _ = run
    checkpoint, picture = checkpoint_path(out, "O:SOFTMAX:CE"), tmp_path / "figure.svg"
    words = ["lipschitz", checkpoint, "--image", "1x8x8", "--json"]
    code, shown, err = command(*words)
    assert code == 0 and json.loads(shown)["picture"] is None, err
    assert list(json.loads(shown)["models"]) == [str(checkpoint)]
    code, shown, _ = command(*words, "--picture", picture)
    assert code == 0 and json.loads(shown)["picture"] == str(picture) and picture.exists()
    (tmp_path / "my_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    code, shown, err = command("lipschitz", "my_net:make", "--image", "1x8x8")
    assert code == 0 and "linear" in shown, err
    code, _, err = command("lipschitz", "my_net:make", "--image", "1x8x8", "--picture", picture)
    assert code == 2 and "--picture needs a classifier with convolutions" in err


def test_paper_trains_sweeps_and_reports_then_reuses(command, tmp_path, monkeypatch):
    monkeypatch.setattr(missing, "default_config", short_training)
    words = ["paper", "--data-set", data_set(tmp_path), "--net", "digits", "--limit", 5]
    words += ["--jobs", 1]  # the short training is known to this process alone
    words += ["--tables", "4", "--out", tmp_path / "out", "--json"]
    code, shown, err = command(*words)
    assert code == 0, err
    found = json.loads(shown)
    assert (found["measured"], found["reused"]) == (3, 0)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "models").iterdir()}
    code, shown, _ = command(*words)
    found = json.loads(shown)
    assert code == 0 and (found["measured"], found["reused"]) == (0, 3)
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "models").iterdir()}
    code, _, err = command(*words[:-1], "--seed", 1)
    assert code == 2 and "must be trained with seed 1, got 0" in err


def short_training(data_set_name, model_name, **overrides):
    from fastrobust.train.recipes import default_config

    return default_config("digits", model_name, epochs=1, **overrides)


def test_train_takes_names_of_every_model(command, tmp_path, monkeypatch):
    monkeypatch.setattr(missing, "default_config", short_training)
    words = ["train", "O:TANH:MSE", "--model", "O:SOFTMAX:CE:PGD", "--model", "R:TANH:MSE:64"]
    words += ["--data-set", data_set(tmp_path), "--net", "digits", "--jobs", 1]
    code, shown, err = command(*words, "--out", tmp_path / "out", "--json")
    found = json.loads(shown)
    assert code == 0, err
    assert list(found) == ["O:TANH:MSE", "O:SOFTMAX:CE:PGD", "R:TANH:MSE:64"]
    assert {name: facts["config"]["attack"] is None for name, facts in found.items()} == {
        "O:TANH:MSE": True, "O:SOFTMAX:CE:PGD": False, "R:TANH:MSE:64": True,
    }  # fmt: skip
    assert len(list((tmp_path / "out" / "models").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "threads"), [([], 1), (["--threads", "3"], 3), (["--net", "40-12"], None)]
)
def test_threads(words, threads, monkeypatch):
    found = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(missing, "train_missing", lambda *given, **named: {})
    with pytest.raises(SystemExit):
        app.main(["train", *words])
    assert found == ([] if threads is None else [threads])


def test_python_m_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "fastrobust", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("fastrobust ")
