"""What the compiler says of every CUDA kernel, without a GPU: registers, shared memory, spills.

Run ``python -m benches.gpu.compile_report [--architectures 80 90] [--out FILE]``; minutes. It
compiles ``csrc/*.cu`` as setup.py does, with ptxas made talkative. Shared memory is what a kernel
declares; what a launch adds to it depends on the shape of the network.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ["-O3", "-std=c++20", "-fmad=false", f"-I{CSRC}"]  # setup.py's
HEADER = "file", "kernel", "sm", "registers", "shared, B", "stack, B", "spills: stores, loads, B"

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_FUNCTION = re.compile(r"Function properties for (\w+)")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(.*)")


class Usage(NamedTuple):
    """What a block of one kernel asks for; memory in bytes, registers and spills per thread."""

    file: str
    kernel: str
    architecture: str
    registers: int
    shared: int
    stack: int
    stores: int
    loads: int


def parse(file: str, text: str) -> list[Usage]:
    """Read what ``-Xptxas -v`` prints; functions that are no kernels are left out."""
    found, name, function, architecture, stack = [], "", "", "", (0, 0, 0)
    for line in text.splitlines():
        if entry := _ENTRY.search(line):
            name, architecture = entry.groups()
        elif of := _FUNCTION.search(line):
            function = of[1]
        elif function == name and (sizes := _STACK.search(line)):
            stack = tuple(map(int, sizes.groups()))
        elif function == name and (used := _USED.search(line)):
            shared = re.search(r"(\d+) bytes smem", used[2])
            size = int(shared[1]) if shared else 0
            found.append(Usage(file, name, architecture, int(used[1]), size, *stack))
    return found


def compile_one(source: Path, architectures: list[str]) -> list[Usage]:
    """Compile one file for each architecture.

    Raises:
        SystemExit: nvcc fails; its own words are shown.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for architecture in architectures:
            command = ["nvcc", *FLAGS, "-Xptxas", "-v", f"-arch=sm_{architecture}"]
            out = str(Path(folder) / "object.o")
            run = subprocess.run(
                [*command, "-c", source, "-o", out], capture_output=True, text=True
            )
            if run.returncode:
                raise SystemExit(f"{source.name} must compile for sm_{architecture}:\n{run.stderr}")
            found += parse(source.name, run.stderr)
    return found


def short(names: list[str]) -> list[str]:
    """Demangle, and leave out what every kernel's name has."""
    run = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True)
    return [simple(line) for line in run.stdout.splitlines()]


def simple(name: str) -> str:
    """Return a demangled kernel's name without namespaces, return type and arguments."""
    name = name.replace("fastrobust::", "").removeprefix("void ")
    name = name[: name.rfind(">(") + 1] if ">(" in name else name.split("(")[0]
    name = re.sub(r"\((\w+)\)(?=-?\d)", "", name)  # (Precision)2, (int)48
    return name.replace("> >", ">>")


def table(rows: list[Usage]) -> str:
    """Lay out as Markdown."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|" + "---:|" * (len(HEADER) - 2)]
    for row, name in zip(rows, short([row.kernel for row in rows]), strict=True):
        cells = [row.file, f"`{name}`", row.architecture, row.registers, row.shared, row.stack]
        lines.append("| " + " | ".join(map(str, [*cells, f"{row.stores}, {row.loads}"])) + " |")
    return "\n".join(lines)


def verdict(rows: list[Usage]) -> str:
    """Say which kernels spill, the worst first."""
    spilling = [row for row in rows if row.stores or row.loads]
    if not spilling:
        return f"None of {len(rows)} kernels spills registers."
    spilling.sort(key=lambda row: row.stores + row.loads, reverse=True)
    names = short([row.kernel for row in spilling])
    told = (
        f"`{name}` on sm_{row.architecture} ({row.stores}, {row.loads})"
        for name, row in zip(names, spilling, strict=True)
    )
    return (
        f"{len(spilling)} of {len(rows)} kernels spill registers (bytes a thread stores and loads "
        f"for it): {', '.join(told)}."
    )


def main(arguments: list[str] | None = None) -> None:
    """Compile everything and print or write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="+", default=["80", "90"])
    parser.add_argument("--out", type=Path, help="a Markdown file; printed where none is named")
    wishes = parser.parse_args(arguments)
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"V([\d.]+)", said)
    rows = []
    for source in sorted(CSRC.rglob("*.cu")):
        rows += compile_one(source, wishes.architectures)
    text = "\n".join(
        [
            "# What the compiler says of the CUDA kernels",
            "",
            f"nvcc {version[1] if version else 'of no known version'}, `{' '.join(FLAGS)}`; by "
            "`python -m benches.gpu.compile_report`. Nothing here has run on a GPU.",
            "Registers, stack and spills are per thread; shared memory is what a block declares, "
            "without what a launch adds.",
            "",
            verdict(rows),
            "",
            table(rows),
            "",
        ]
    )
    if wishes.out:
        wishes.out.parent.mkdir(parents=True, exist_ok=True)
        wishes.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
