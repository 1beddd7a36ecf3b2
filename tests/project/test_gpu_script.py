"""`make gpu` without a GPU: what it refuses, how it keeps time, and what it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

gpu = pytest.importorskip("benches.gpu.__main__", reason="benches are not installed")
from benches.gpu import facts, report, tests

CUDA_BUILD = {"cuda": "13.0", "architectures": "9.0"}
FACTS = {
    "card": "NVIDIA H100 80GB HBM3",
    "capability": "9.0",
    "torch": "2.14.1",
    "nvcc": "13.0.88",
    "python": "3.11.7",
    "nvidia_smi": {"clocks.sm": "1980 MHz"},
}


@pytest.fixture
def card(monkeypatch):
    """A machine that has all that is asked for, whatever this one has."""
    for name, answer in {
        "torch_cuda": "13.0",
        "cards": 1,
        "nvcc": "13.0.88",
        "extension": CUDA_BUILD,
        "architecture": "9.0",
        "describe": FACTS,
    }.items():
        monkeypatch.setattr(facts, name, lambda answer=answer: answer)
    return monkeypatch


@pytest.mark.parametrize(
    ("probe", "answer", "message"),
    [
        ("torch_cuda", None, "torch must be a CUDA build, got a CPU build, "),
        ("cards", 0, "there must be a CUDA GPU that torch sees, got none"),
        ("nvcc", None, "nvcc must be on PATH or in /usr/local/cuda/bin, got none"),
        ("extension", {"cuda": None}, "the extension must be a CUDA build, got one for the CPU"),
        ("extension", "no _C", "the extension must load, got: no _C"),
        ("extension", {"cuda": "13.0", "architectures": "8.0"}, "architecture 9.0, got 8.0"),
    ],
)
def test_what_is_missing_is_said_in_one_line(card, capsys, tmp_path, probe, answer, message):
    card.setattr(facts, probe, lambda: answer)
    card.setattr(gpu, "rows_of", lambda *_: pytest.fail("it must not measure"))
    assert gpu.main(["--no-build", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("gpu: ") and message in told.err and told.err.count("\n") == 1
    assert not list(tmp_path.iterdir()) and not told.out


@pytest.mark.parametrize("probe", ["torch_cuda", "cards", "nvcc"])
def test_nothing_is_built_for_a_machine_that_cannot_run_it(card, probe):
    card.setattr(facts, probe, lambda: None)
    card.setattr(gpu, "build", lambda: pytest.fail("it must not build"))
    assert gpu.main([]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_command_itself_refuses_this_machine():
    root = Path(gpu.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "benches.gpu"], cwd=root, capture_output=True, text=True
    )
    assert run.returncode == 2 and run.stderr.startswith("gpu: ") and run.stderr.count("\n") == 1


def test_a_build_for_the_cpu_is_built_anew_for_the_card(card, tmp_path):
    found, asked = [{"cuda": None}, CUDA_BUILD], []

    def run(command, env, stdout, **_):
        asked.append((command[1:], env["FASTROBUST_CUDA"], env["TORCH_CUDA_ARCH_LIST"]))
        stdout.write("g++: out of luck\n")
        return subprocess.CompletedProcess(command, len(asked) - 1)

    card.setattr(facts, "ROOT", tmp_path)
    card.setattr(facts, "extension", lambda: found[bool(asked)])
    card.setattr(gpu.subprocess, "run", run)
    gpu.build()
    assert asked == [(["setup.py", "build_ext", "--inplace"], "1", "9.0")]
    gpu.build()  # is what it should be
    assert len(asked) == 1
    card.setattr(facts, "extension", lambda: {"cuda": None})
    with pytest.raises(facts.MissingError, match=r"must build, got: g\+\+: out of luck"):
        gpu.build()


def test_code_for_another_card_does_not_suit():
    assert facts.suits("8.0;9.0+PTX", "9.0") and facts.suits("8.0 9.0", "8.0")
    assert not facts.suits("8.0;9.0+PTX", "12.0") and not facts.suits("", "9.0")


def test_every_row_is_written_as_it_comes(card, tmp_path, capsys):
    """The third row never comes: the first two are there all the same, and so is the reason."""
    out = tmp_path / "results"
    seen = []

    def rows(deadline):
        assert deadline.seconds == 7
        for row in ({"op": "decode", "ms": 0.5}, {"op": "head", "ms": 0.25}):
            yield row
            seen.append(json.loads((out / "nvidia-h100-80gb-hbm3.json").read_text()))
        raise RuntimeError("CUDA error: an illegal memory access\nand more")

    card.setattr(gpu.importlib, "import_module", lambda name: type("part", (), {"rows": rows}))
    assert gpu.main(["--part", "kernels", "--seconds", "7", "--out", str(out)]) == 0
    assert [len(known["kernels"]["rows"]) for known in seen] == [1, 2]
    page = (out / "nvidia-h100-80gb-hbm3.md").read_text()
    assert "NVIDIA H100 80GB HBM3 (sm 9.0), torch 2.14.1" in page and "1980 MHz" in page
    assert "RuntimeError: CUDA error: an illegal memory access |" in page
    assert "op: head, ms: 0.25" in capsys.readouterr().out


def test_parts_run_in_processes_of_their_own(card, tmp_path):
    asked = []

    def run(command, **_):
        asked.append(command[command.index("--part") + 1])
        return subprocess.CompletedProcess(command, {"kernels": -11}.get(asked[-1], 0))

    card.setattr(gpu.subprocess, "run", run)
    assert gpu.main(["--out", str(tmp_path)]) == 11
    assert asked == ["tests", "kernels", "engine"]


def test_a_failed_test_is_an_exit_code(card, tmp_path):
    rows = [{"test": "pytest", "result": "failed"}, {"test": "c++", "result": "passed"}]
    part = type("part", (), {"rows": lambda deadline: rows})
    card.setattr(gpu.importlib, "import_module", lambda name: part)
    assert gpu.main(["--part", "tests", "--out", str(tmp_path)]) == 1


def test_no_time_is_no_wish(card, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--seconds", "0"])
    assert "--seconds must be positive, got 0" in capsys.readouterr().err


def test_other_parts_stay_as_they_were(tmp_path):
    for part, ms in (("kernels", 1.0), ("engine", 2.0), ("kernels", 3.0)):
        report.write(tmp_path, "card", {**FACTS, "torch": str(ms)}, {part: [{"ms": ms}]})
    known = json.loads((tmp_path / "card.json").read_text())
    assert {part: found["rows"][0]["ms"] for part, found in known.items()} == {
        "kernels": 3.0,
        "engine": 2.0,
    }
    assert known["kernels"]["machine"]["torch"] == "3.0"


def test_a_table_has_every_column_of_its_rows():
    rows = [
        {"table": "a", "op": "x|y", "ms": 0.123456, "spread": 0.1},
        {"table": "a", "op": "z", "x in place": (2.0, 1.5, 2.5)},
        {"table": "a", "failed": "out of memory"},
    ]
    assert report.table(rows) == [
        "| op | ms | spread | x in place | failed |",
        "|---|---|---|---|---|",
        "| x\\|y | 0.1235 | 10% |  |  |",
        "| z |  |  | 2.00 (1.50-2.50) |  |",
        "|  |  |  |  | out of memory |",
    ]
    page = report.markdown({"part": {"machine": FACTS, "rows": [*rows, {"table": "b"}]}})
    assert page.index("## a") < page.index("x\\|y") < page.index("## b")


def test_a_budget_is_shared_and_ends():
    now = [100.0]
    deadline = report.Deadline(30, lambda: now[0])
    assert deadline.share(3) == 10 and deadline.share(0) == 30
    now[0] = 120.0
    assert deadline.left() == 10
    now[0] = 140.0
    assert deadline.left() == 0 == deadline.share(2)


def test_what_does_not_fit_becomes_a_row():
    def large():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nhint")

    key = {"net": "BC 100-12", "N": 8000}
    assert report.attempt(key, large) == {
        **key,
        "failed": "out of memory: CUDA out of memory. Tried to allocate 9 GiB",
    }
    assert report.attempt(key, lambda: {"ms": 1}) == {**key, "ms": 1}
    assert report.attempt(key, lambda: 1 / 0)["failed"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("text", "code", "result", "told"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0, "passed", "ERROR SUMMARY: 0 errors"),
        ("========= ERROR SUMMARY: 3 errors", 86, "failed", "ERROR SUMMARY: 3 errors"),
        ("========= ERROR SUMMARY: 0 errors", 1, "failed", "ERROR SUMMARY: 0 errors"),
        (
            "= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
            0,
            "passed",
            "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
        ),
        (
            "= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)",
            86,
            "failed",
            "RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)",
        ),
        ("cannot attach", 1, "not run", "the tool does not work: cannot attach"),
        (
            "Error: Target application terminated before first instrumented API call\n"
            "========= ERROR SUMMARY: 0 errors",
            0,
            "not run",
            "the tool does not work: ERROR SUMMARY: 0 errors",
        ),
    ],
)
def test_a_sanitizer_is_judged_by_its_summary(text, code, result, told):
    row = tests.verdict(subprocess.CompletedProcess([], code, text, ""), 1.234)
    assert row == {"result": result, "seconds": 1.2, "said": told}


@pytest.mark.parametrize(
    ("code", "last", "result"),
    [
        (0, "41 passed, 900 deselected in 9s", "passed"),
        (0, "41 skipped, 900 deselected in 9s", "failed"),  # of a GPU that torch sees
        (1, "1 failed, 40 passed in 9s", "failed"),
    ],
)
def test_pytest_must_have_run_something(monkeypatch, code, last, result):
    done = subprocess.CompletedProcess([], code, f"...\n{last}\n", "")
    monkeypatch.setattr(tests, "run", lambda command, deadline: (done, 9.0))
    row = tests.pytest_row(report.Deadline(60))
    assert (row["result"], row["said"]) == (result, last)


def test_all_tests_have_a_row(monkeypatch):
    """Two programs plain and under three tools, though one is not built and no tool is there."""
    monkeypatch.setattr(tests, "pytest_row", lambda deadline: {"test": "pytest"})
    built = {"test_cuda": Path("/bin/true")}
    monkeypatch.setattr(tests, "programs", lambda deadline: (built, "not built: nvcc says no"))
    monkeypatch.setattr(tests.shutil, "which", lambda name, path=None: None)
    rows = list(tests.rows(report.Deadline(60)))
    assert len(rows) == 9 and rows[1]["test"] == "test_cuda" and rows[1]["result"] == "passed"
    assert {row["said"] for row in rows[2:5]} == {"no compute-sanitizer on this machine"}
    assert {row["result"] for row in rows[5:]} == {"failed"}
    assert rows[5]["said"] == "not built: nvcc says no"


def test_a_command_ends_with_its_time():
    deadline = report.Deadline(1.2)
    done, seconds = tests.run(["sleep", "30"], deadline)
    assert done is None and 1 < seconds < 10
    assert tests.run(["true"], deadline)[0] is None  # less than a second is left
    assert tests.plain((None, seconds))["result"] == "not run"
