"""The layout holds: imports go down only, no circles, and only the binding includes torch."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import fastrobust

PACKAGE = Path(fastrobust.__file__).parent
CSRC = PACKAGE.parent / "csrc"
HEADERS_OF_TORCH = re.compile(r"#include\s*[<\"](torch|ATen|c10|pybind11)/")

# Packages from the top down: each imports only what stands below it.
ORDER = [
    *("cli", "report", "published", "sweep", "paper", "train", "runs", "evaluation"),
    *("spectral", "attacks", "engine", "models", "data", "ops", "utils"),
]
LONGEST = 18  # modules in a chain of imports
FILES = {"__init__.py", "__main__.py", "_version.py", "py.typed"}

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs a checkout")


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


@cache
def imports(module):
    """Return {imported module: line}, wherever in the file the import stands."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name: node.lineno for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{whole}.{alias.name}"
                found[inner if inner in MODULES else whole] = node.lineno
    return {name: line for name, line in found.items() if name in MODULES}


def package_of(module):
    """Return the package of a module; the root's own files are ""."""
    first = module.split(".")[1] if "." in module else ""
    return first if first in ORDER else ""


def test_the_package_holds_packages_and_nothing_else():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    strays = {name for name in entries - FILES - set(ORDER) if not name.startswith("_C.")}
    assert not strays, f"give {sorted(strays)} a package"


def test_imports_go_down_only():
    wrong = []
    for module, path in MODULES.items():
        here = package_of(module)
        for imported, line in imports(module).items():
            below = package_of(imported)
            if here and not below:
                fine = imported.endswith("._version")
            else:
                fine = not here or here == below or ORDER.index(here) < ORDER.index(below)
            if not fine:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle_and_no_long_chain():
    chains = {}

    def chain_below(module, above):
        """Return the longest chain of imports from a module down."""
        assert module not in above, f"a circle: {' > '.join([*above, module])}"
        if module not in chains:
            below = [chain_below(name, [*above, module]) for name in imports(module)]
            chains[module] = [module, *max(below, key=len, default=[])]
        return chains[module]

    longest = max((chain_below(module, []) for module in MODULES), key=len)
    assert len(longest) <= LONGEST, f"{len(longest)} modules: {' > '.join(longest)}"


def test_faces_are_small_and_name_nothing_after_their_files():
    for module, path in MODULES.items():
        if path.name != "__init__.py" or module == "fastrobust":
            continue
        face = path.read_text()
        assert ast.get_docstring(ast.parse(face)), f"{module} must say what it is"
        assert face.count("\n") < 40, f"{module} must be a face, and hand names on"
        shown = {
            alias.asname or alias.name
            for node in ast.parse(face).body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        files = {other.stem for other in path.parent.iterdir()}
        assert not shown & files, f"{module} shows {shown & files}, names of its own files"


def test_only_the_binding_includes_torch():
    wrong = [
        path.name
        for path in CSRC.rglob("*.*")
        if path.parent.name != "binding" and HEADERS_OF_TORCH.search(path.read_text())
    ]
    assert not wrong
    assert HEADERS_OF_TORCH.search((CSRC / "binding" / "checks.h").read_text())


def test_every_kernel_has_its_header_and_its_op():
    kernels = sorted(path.stem for path in (CSRC / "ops").glob("*.cu"))
    assert "decode" in kernels
    for kernel in kernels:
        assert (CSRC / "ops" / f"{kernel}.h").is_file()
        assert (PACKAGE / "ops" / f"{kernel}_op.py").is_file()


def test_no_kernel_uses_atomics():
    assert not [
        p.name for p in CSRC.rglob("*.*") if re.search(r"\batomic(Add|Max|CAS)", p.read_text())
    ]
