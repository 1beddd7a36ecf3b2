import re
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pytest
import torch

import fastrobust as fr
from fastrobust.ops import extension

ROOT = Path(extension.__file__).parents[2]
in_checkout = pytest.mark.skipif(not extension.CSRC.is_dir(), reason="needs a checkout")


def test_build_info_says_what_was_built():
    info = fr.build_info()
    assert info["version"] == fr.__version__
    assert info["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert info["cuda"] is None or re.fullmatch(r"\d+\.\d", info["cuda"])
    assert bool(info["architectures"]) == (info["cuda"] is not None)
    assert info["cpu"] in ("portable", "avx2", "avx512", "amx")
    assert info["openmp"] is True
    assert info["compiler"].startswith("g++")


@in_checkout
def test_the_sources_are_those_of_the_build():
    assert fr.build_info()["sources"] == extension.sources_digest(extension.CSRC)


def test_missing_kernels_say_how_to_build():
    with pytest.raises(ImportError, match=r"fastrobust\._D must be compiled and is not: build it"):
        extension.load("fastrobust._D", extension.CSRC)


def test_stale_kernels_say_how_to_build(tmp_path):
    (tmp_path / "step.h").write_text("// changed")
    with pytest.raises(ImportError, match=r"present csrc/ and is stale: build it with"):
        extension.load("fastrobust._C", tmp_path)


def test_kernels_of_another_torch_say_how_to_build(monkeypatch):
    def broken(name: str) -> types.ModuleType:
        raise ImportError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(extension.importlib, "import_module", broken)
    with pytest.raises(
        ImportError, match=r"against the torch in use, .*undefined symbol.*build it"
    ):
        extension.load("fastrobust._C", extension.CSRC)


def test_an_installed_wheel_has_no_sources_to_compare(tmp_path):
    assert extension.load("fastrobust._C", tmp_path / "absent") is extension.kernels


def test_a_lesser_instruction_set_gives_the_same_bits():
    """The environment variable is read once, so each answer comes from a process of its own."""
    code = (
        "import torch, hashlib, fastrobust as fr; g = torch.Generator().manual_seed(0);"
        "z, v = torch.randn(50, 129, generator=g), torch.randn(10, 129, generator=g);"
        "out = fr.ops.head(z, v, torch.arange(50) % 10, 'tanh', 'ce');"
        "x = fr.ops.step(z, z, z, z, 'momentum', .1, .1);"
        "data = b''.join(t.numpy().tobytes() for t in (*out, *x));"
        "print(fr.build_info()['cpu'], hashlib.sha256(data).hexdigest())"
    )
    answers = {}
    for wish in ("portable", "avx2", "avx512", "amx"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
            env={"FASTROBUST_CPU": wish, "PATH": "", "HOME": "/nonexistent"},
        )  # fmt: skip
        chosen, digest = done.stdout.split()
        answers[chosen] = digest
    assert "portable" in answers
    assert len(set(answers.values())) == 1, answers


@in_checkout
def test_an_sdist_holds_the_kernels_and_what_builds_them(tmp_path):
    command = [
        "setup.py",
        "-q",
        "egg_info",
        "--egg-base",
        tmp_path,
        "sdist",
        "--dist-dir",
        tmp_path,
    ]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {Path(*Path(name).parts[1:]) for name in tar.getnames()}
    sources = {path.relative_to(ROOT) for path in extension.CSRC.rglob("*.*")}
    assert (
        sources | {Path("setup.py"), Path("CMakeLists.txt"), Path("fastrobust/py.typed")} <= packed
    )
