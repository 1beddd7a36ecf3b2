"""README's examples, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else ""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(command, folder):
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(places), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import(capsys):
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert "tensor" in capsys.readouterr().out


def test_the_sweep(tmp_path):
    (plan,) = blocks("json")
    (tmp_path / "my_plan.json").write_text(plan)
    printed = run(blocks("bash")[0], tmp_path)
    assert "PGD" in printed
    assert (tmp_path / "runs/mine/report.html").exists()


def test_the_benchmark(tmp_path):
    if not (ROOT / "benches").is_dir():
        pytest.skip("benches are not installed")
    printed = run(blocks("bash")[1], tmp_path)
    assert "step_ sign" in printed and (tmp_path / "ops.json").exists()


def test_the_check_of_the_papers_tables(tmp_path):
    (shown,) = (text for text in blocks("console") if "check paper" in text)
    *lines, rest = shown.splitlines()[1:]
    assert rest == "..." and run("fastrobust check paper", tmp_path).splitlines()[:4] == lines


def test_the_check_of_ones_own_tables(tmp_path):
    (tmp_path / "mine.csv").write_text(blocks("text")[0])
    printed = run("fastrobust check mine.csv", tmp_path)
    assert printed.startswith("Numbers: 3, ") and "Table 1, cifar10, my net: " in printed


def test_every_picture_is_there():
    for place in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / place).is_file(), place
