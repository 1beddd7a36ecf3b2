"""Mutation testing: plants small faults in attacks, engine and ops, and counts what tests miss.

Run ``python -m benches.mutants --copy DIR [--count 300] [--seed 0] [--out FILE]`` in a checkout,
with ``pip install cosmic-ray``, whose operators make the faults. The tree is copied to DIR and
mutated there. Each line of FILE is one mutant: where it is, what was changed, killed or survived.
A survivor is either equivalent to the original or a hole in the tests.
"""

import argparse
import ast
import difflib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = "attacks", "engine", "ops"
EVERY = {
    "attacks": ["attacks/test_attack_table.py", "attacks/test_attacks_interface.py"],
    "engine": ["engine"],
    "ops": [],
}
# The tests that know a file best, below tests/; `EVERY` of its package run too.
TESTS = {
    "sign": ["attacks/test_attacks_golden.py", "attacks/test_attacks_linear.py"],
    "sign_rule": ["attacks/test_attacks_golden.py", "attacks/test_attacks_metamorphic.py"],
    "base": ["attacks/test_attacks_metamorphic.py", "engine/test_engine.py"],
    "rule": ["attacks/test_attacks_metamorphic.py", "sweep/test_savings.py"],
    "state": ["attacks/test_attacks_metamorphic.py", "sweep/test_savings.py"],
    "targets": ["attacks/test_attacks_apgd.py"],
    "apgd": ["attacks/test_attacks_apgd.py"],
    "cwl2": ["attacks/test_attacks_cwl2.py", "sweep/test_savings.py"],
    "const_search": ["attacks/test_attacks_lbfgs.py", "sweep/test_savings.py"],
    "lbfgs": ["attacks/test_attacks_lbfgs.py", "sweep/test_savings.py"],
    "box_lbfgs": ["attacks/test_attacks_lbfgs.py"],
    "deepfool": ["attacks/test_attacks_deepfool.py", "sweep/test_savings.py"],
    "fab": ["attacks/test_attacks_fab.py"],
    "projections": ["attacks/test_projections.py", "attacks/test_attacks_fab.py"],
    "square": ["attacks/test_attacks_square.py"],
    "square_windows": ["attacks/test_attacks_square.py"],
    "scheduler": ["attacks/test_attacks_metamorphic.py", "sweep/test_savings.py"],
    "objectives": ["attacks/test_attacks_golden.py", "attacks/test_attacks_cwl2.py"],
    "philox": ["ops/test_philox.py", "models/test_codebook.py"],
    "extension": ["ops/test_build.py"],
    "registry": ["ops/test_ops_step.py", "ops/test_ops_decode.py"],
}


def tests_of(path: Path) -> list[str]:
    """Return the test files of a source file."""
    package, stem = path.parent.name, path.stem
    own = TESTS.get(stem, [f"ops/test_ops_{stem.removesuffix('_op')}.py"] * (package == "ops"))
    if stem == "head_op":
        own = [*own, "ops/test_ops_tanh_mse.py"]
    return [f"tests/{name}" for name in (*own, *EVERY[package])]


def lines_of_code(text: str) -> set[int]:
    """Return the lines whose change can change a result: no messages, annotations, docstrings."""
    lines, out = set(range(1, text.count("\n") + 2)), set()
    for node in ast.walk(ast.parse(text)):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.AnnAssign):
            parts = [node.annotation] if isinstance(node, ast.AnnAssign) else [node]
        elif isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            parts = [node.returns, *(argument.annotation for argument in arguments)]
        for part in filter(None, parts):
            out |= set(range(part.lineno, part.end_lineno + 1))  # type: ignore[attr-defined]
    cuda = {n for n, line in enumerate(text.splitlines(), 1) if "cuda" in line.lower()}
    return lines - out - cuda


def mutants(root: Path) -> Iterator[tuple[Path, int, str, int]]:
    """Yield (file, line, operator, occurrence) of every mutant."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    # Variables are replaced by operators that want to be told which.
    names = [name for name in plugins.operator_names() if "Variable" not in name]
    for package in PACKAGES:
        for path in sorted((root / "fastrobust" / package).glob("*.py")):
            if path.stem.startswith("__"):
                continue
            text = path.read_text()
            code, nodes = lines_of_code(text), list(ast_nodes(get_ast(text)))
            for name in names:
                operator, occurrence = plugins.get_operator(name)(), 0
                for node in nodes:
                    for (line, _), _ in operator.mutation_positions(node):
                        if line in code:
                            yield path.relative_to(root), line, name, occurrence
                        occurrence += 1


def run(tests: list[str], root: Path, seconds: float) -> str:
    """Run tests in a fork of this process, which has torch in memory already."""
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(root)
        sys.path[:0] = [str(root), str(root / "tests" / "oracles")]
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        import pytest

        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def main() -> None:
    """Mutate, test, and write a line per mutant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copy", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="1/1", help="such as 2/3: every third mutant")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    wishes = parser.parse_args()
    import pytest  # noqa: F401 - here, so that every fork has it
    import scipy.optimize  # noqa: F401
    import torch  # noqa: F401
    from cosmic_ray import mutating, plugins

    ignored = shutil.ignore_patterns(".git", ".venv", "build", "weights", "results", "__pycache__")
    shutil.copytree(".", wishes.copy, ignore=ignored, dirs_exist_ok=True)
    by_line: dict[tuple[Path, int], list[tuple[str, int]]] = {}
    for path, line, name, occurrence in mutants(wishes.copy):
        by_line.setdefault((path, line), []).append((name, occurrence))
    draw = random.Random(wishes.seed)
    sample = draw.sample(sorted(by_line), min(wishes.count, len(by_line)))
    chosen = [(*place, *draw.choice(by_line[place])) for place in sample]
    number, parts = map(int, wishes.part.split("/"))
    for path, line, name, occurrence in chosen[number - 1 :: parts]:
        file = wishes.copy / path
        original = file.read_text()
        mutating.apply_mutation(file, plugins.get_operator(name)(), occurrence)
        change = difflib.unified_diff(original.splitlines(), file.read_text().splitlines(), n=0)
        result = run(tests_of(path), wishes.copy, 90)
        file.write_text(original)
        facts = {"file": str(path), "line": line, "operator": name, "result": result}
        with open(wishes.out, "a") as out:
            out.write(json.dumps({**facts, "change": list(change)[3:]}) + "\n")


if __name__ == "__main__":
    main()
