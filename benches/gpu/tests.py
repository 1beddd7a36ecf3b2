"""Every test that needs a GPU: pytest's, and the C++ ones plain and under compute-sanitizer."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from . import facts
from .report import Deadline, Row

PROGRAMS = {"test_cuda": "ops", "test_densenet_cuda": "densenet"}  # by the folder of each
TOOLS = "memcheck", "racecheck", "initcheck"
FOUND = 86  # exit code that says that a sanitizer found something
BUILD = facts.ROOT / "build" / "gpu"
FLAGS = ["-O3", "-std=c++20", "-fmad=false", "-Xcompiler=-fopenmp-simd,-ffp-contract=off", "-Icsrc"]

Run = subprocess.CompletedProcess[str]


def rows(deadline: Deadline) -> Iterator[Row]:
    """Run all of them, one row each; none may take the time of all others."""
    yield pytest_row(Deadline(deadline.left() / 2, deadline.clock))
    built, why = programs(deadline)
    ways = [(name, tool) for name in PROGRAMS for tool in (None, *TOOLS)]
    for at, (name, tool) in enumerate(ways):
        test = {"test": f"{name} under {tool}" if tool else name}
        share = Deadline(deadline.share(len(ways) - at), deadline.clock)
        if name not in built:
            yield {**test, **row("failed", 0, why)}
        elif tool is None:
            yield {**test, **plain(run([str(built[name])], share))}
        else:
            yield {**test, **sanitized(tool, built[name], share)}


def run(command: list[str], deadline: Deadline) -> tuple[Run | None, float]:
    """Run a command in the time that is left; None where that was not enough, and its seconds."""
    before = deadline.left()
    if before < 1:
        return None, 0.0
    try:
        done = subprocess.run(
            command, cwd=facts.ROOT, capture_output=True, text=True, timeout=before
        )
    except subprocess.TimeoutExpired:
        done = None
    return done, before - deadline.left()


def row(result: str, seconds: float, told: str) -> Row:
    """Say how it went."""
    return {"result": result, "seconds": round(seconds, 1), "said": told[:160]}


def late(seconds: float) -> Row:
    """What the time did not reach."""
    return row("not run", seconds, "the time of this part is over")


def pytest_row(deadline: Deadline) -> Row:
    """``pytest -m cuda``: its last line counts; to pass, something must have run."""
    test = {"test": "pytest -m cuda"}
    if not find_spec("pytest"):
        return {**test, **row("not run", 0, "no pytest on this machine")}
    options = ["-q", "-m", "cuda", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    done, seconds = run([sys.executable, "-m", "pytest", *options, "tests"], deadline)
    if done is None:
        return {**test, **late(seconds)}
    told = facts.last_line(done.stdout or done.stderr)
    passed = done.returncode == 0 and re.search(r"\d+ passed", told) is not None
    return {**test, **row("passed" if passed else "failed", seconds, told)}


def programs(deadline: Deadline) -> tuple[dict[str, Path], str]:
    """Build the C++ tests; returns those that there are, and why others are not there."""
    BUILD.mkdir(parents=True, exist_ok=True)
    card, nvcc = facts.architecture().replace(".", ""), str(facts.compiler())
    if shutil.which("cmake"):
        configure = ["cmake", "-S", ".", "-B", str(BUILD), f"-DCMAKE_CUDA_ARCHITECTURES={card}"]
        configure += [f"-DCMAKE_CUDA_COMPILER={nvcc}"]
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        compile_all = ["cmake", "--build", str(BUILD), "-j", "8", "--target", *PROGRAMS]
        commands = [configure, compile_all]
    else:  # the same sources by the compiler alone, each program with all kernels
        kernels = [str(path) for path in sorted((facts.ROOT / "csrc").rglob("*.cu"))]
        compiler = [nvcc, *FLAGS, f"-arch=sm_{card}", "-t", "8", *kernels]
        commands = [
            [*compiler, f"csrc/tests/{folder}/{name}.cpp", "-o", str(BUILD / name)]
            for name, folder in PROGRAMS.items()
        ]
    for command in commands:
        done, _ = run(command, deadline)
        if done is None:
            return {}, "not built in time"
        if done.returncode:
            return {}, f"not built: {facts.last_line(done.stderr or done.stdout)}"
    return {name: BUILD / name for name in PROGRAMS}, ""


def plain(found: tuple[Run | None, float]) -> Row:
    """Judge a C++ test by its exit code."""
    done, seconds = found
    if done is None:
        return late(seconds)
    told = facts.last_line(done.stdout + done.stderr)
    # To see no GPU is a failure here: torch sees one.
    return row("failed" if done.returncode else "passed", seconds, told)


def sanitized(tool: str, program: Path, deadline: Deadline) -> Row:
    """Run a C++ test under a tool of compute-sanitizer, where that is there and works."""
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if not sanitizer:
        return row("not run", 0, "no compute-sanitizer on this machine")
    command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), str(program)]
    done, seconds = run(command, deadline)
    return late(seconds) if done is None else verdict(done, seconds)


def verdict(done: Run, seconds: float) -> Row:
    """Judge a sanitizer by its summary: without one it did not get as far as the kernels."""
    text = done.stdout + done.stderr
    summary = re.findall(r"((?:ERROR|RACECHECK) SUMMARY: .*)", text)
    if not summary:
        return row("not run", seconds, f"the tool does not work: {facts.last_line(text)}")
    broken = "Target application terminated before first instrumented" in text
    if broken or "not supported" in text:
        return row("not run", seconds, f"the tool does not work: {summary[-1]}")
    clean = re.search(r": 0 (errors|hazards)", summary[-1]) is not None
    return row("passed" if clean and done.returncode == 0 else "failed", seconds, summary[-1])
