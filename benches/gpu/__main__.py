"""Everything that needs a GPU, in one command: tests, kernels, and the engine.

Run ``make gpu [PART=engine]`` or ``python -m benches.gpu [--part tests kernels engine]`` where
there are an NVIDIA card, nvcc and a CUDA build of PyTorch; no network is asked for. It builds the
extension for the card at hand, where it is not built so already, and writes one JSON and one
Markdown file named after the card into ``--out``, anew after every row. Each part takes about 8
minutes, or ``--seconds``; the build comes before them.
"""

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from . import facts, report
from .report import Deadline, Row

PARTS = "tests", "kernels", "engine"


def build() -> None:
    """Build the extension in place for the card at hand, unless it is built so.

    Raises:
        MissingError: it cannot be built; the compiler's words are in build/gpu.log.
    """
    try:
        return facts.require_extension()
    except facts.MissingError as fact:
        print(f"building: {fact}", flush=True)
    wish = {"FASTROBUST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": facts.architecture()}
    log = facts.ROOT / "build" / "gpu.log"
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    with log.open("w") as said:
        run = subprocess.run(
            command, cwd=facts.ROOT, env={**os.environ, **wish}, stdout=said, stderr=said
        )
    if run.returncode:
        found = facts.last_line(log.read_text())
        raise facts.MissingError(f"the extension must build, got: {found} ({log})")


def rows_of(part: str, deadline: Deadline, keep: Callable[[list[Row]], object]) -> list[Row]:
    """Measure one part; `keep` is given all of its rows so far after each of them."""
    rows: list[Row] = []
    try:
        # Imported late: the parts import fastrobust, which may just have been built.
        for row in importlib.import_module(f"benches.gpu.{part}").rows(deadline):
            told = (f"{name}: {report.cell(name, value)}" for name, value in row.items())
            print("  " + ", ".join(told), flush=True)
            rows.append(row)
            keep(rows)
    except Exception as error:  # a part that breaks must not take those after it along
        rows.append({"failed": f"{type(error).__name__}: {report.said(error)}"})
        print(f"  {rows[-1]['failed']}", flush=True)
        keep(rows)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Check the machine, build, measure, write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benches.gpu", description=__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("benches/results"))
    parser.add_argument("--seconds", type=float, default=480, help="for each part")
    parser.add_argument("--no-build", action="store_true", help="take the extension as it is")
    wishes = parser.parse_args(arguments)
    if wishes.seconds <= 0:
        parser.error(f"--seconds must be positive, got {wishes.seconds:g}")
    try:
        facts.require_machine()
        if not wishes.no_build:
            build()
        facts.require_extension()
    except facts.MissingError as fact:
        print(f"gpu: {fact}", file=sys.stderr)
        return 2
    if len(wishes.part) > 1:
        return max(child(part, wishes) for part in wishes.part)
    (part,) = wishes.part
    machine = facts.describe()
    name = facts.slug(machine["card"])
    print(f"{part}, for at most {wishes.seconds:g} s", flush=True)
    found = rows_of(
        part,
        Deadline(wishes.seconds),
        lambda rows: report.write(wishes.out, name, machine, {part: rows}),
    )
    print(f"written: {wishes.out / name}.json and .md", flush=True)
    return int(any(row.get("result") == "failed" for row in found))


def child(part: str, wishes: argparse.Namespace) -> int:
    """Run one part in a process of its own: a kernel that crashes breaks a process's whole GPU."""
    command = [sys.executable, "-m", "benches.gpu", "--no-build", "--part", part]
    options = ["--out", str(wishes.out.resolve()), "--seconds", str(wishes.seconds)]
    return abs(subprocess.run([*command, *options], cwd=facts.ROOT).returncode)


if __name__ == "__main__":
    sys.exit(main())
