"""The map of the house holds: torch stays in the binding, and Python imports go down only."""

import ast
import re
from pathlib import Path

import pytest

import fastrobust

PACKAGE = Path(fastrobust.__file__).parent
CSRC = PACKAGE.parent / "csrc"
HEADERS_OF_TORCH = re.compile(r"#include\s*[<\"](torch|ATen|c10|pybind11)/")

# Modules by layer, top down, as the first part of their name below fastrobust. One may import what
# stands in a lower layer, its own layer, or the ground, which imports nothing of the package.
LAYERS = [
    {"__main__", "cli", "commands", "bounds", "examining", "inspection", "options", "terminal"}
    | {"judging"},
    {"report", "conclusions", "evidence", "figures", "findings", "galleries"}
    | {
        "layout",
        "listings",
        "marks",
        "norm_tables",
        "questions",
        "results",
        "spectra",
        "tables",
        "verdict",
        "verdicts",
    }
    | {"suspects", "suspicions", "contradictions", "published", "number"},
    {"sweep", "trained", "store", "plans", "presets", "columns", "paper", "probing"}
    | {"measure", "jobs", "subject", "flows", "searches", "tally", "tasks", "worker"},
    {"train", "recipes", "resume", "data", "checkpoint", "pretrained"},
    {"evaluation", "worst_case", "lineup", "journal", "soundness"},
    {"attacks", "spectral", "lipschitz", "sensitivity", "chains", "layers", "leaves", "readers"},
    {"lanczos", "singular", "torus"},
    {"slots"},
    {"randomised"},
    {"engine", "prepared", "backends", "fused", "folding", "graphs"},
    {"objectives", "losses"},
    {"classifier", "heads", "codebook", "models"},
    {"ops"},
    {"build"},
]
GROUND = {"allocator", "checks", "errors", "files", "philox", "progress", "stats"}
ENTRANCE = {"__init__"}  # the package itself shows what it likes

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs a checkout")


def layer_of(name):
    return next((i for i, names in enumerate(LAYERS) if name in names), None)


def imports(path):
    """First names below fastrobust that a file imports, anywhere in it."""
    package = ["fastrobust", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module or "").split(".") if node.module else base
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "fastrobust" and len(target) > 1:
                yield target[1], node.lineno


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").parts[0], path


def test_every_module_has_a_layer():
    names = {name for name, _ in modules()} - ENTRANCE
    known = set().union(*LAYERS) | GROUND
    assert names <= known, f"give {sorted(names - known)} a layer"


def test_imports_go_down_only():
    wrong = []
    for name, path in modules():
        if name in ENTRANCE:
            continue
        for imported, line in imports(path):
            up = layer_of(imported)
            here = layer_of(name)
            if up is not None and (here is None or up < here):
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_only_the_binding_includes_torch():
    wrong = [
        path.name
        for path in CSRC.rglob("*.*")
        if not path.stem.startswith("binding") and HEADERS_OF_TORCH.search(path.read_text())
    ]
    assert not wrong
    assert HEADERS_OF_TORCH.search((CSRC / "binding.h").read_text())


def test_every_kernel_has_its_header_and_its_op():
    kernels = sorted(path.stem for path in CSRC.glob("*.cu"))
    assert "decode" in kernels
    for kernel in kernels:
        assert (CSRC / f"{kernel}.h").is_file()
        assert (PACKAGE / "ops" / f"{kernel}.py").is_file()


def test_no_kernel_uses_atomics():
    assert not [
        p.name for p in CSRC.glob("*.*") if re.search(r"\batomic(Add|Max|CAS)", p.read_text())
    ]
