"""Build fastrobust._C, the kernels: with CUDA where torch and nvcc have it, else for the CPU."""

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import torch
from setuptools import setup

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"


def toolkit() -> str | None:
    """The CUDA toolkit that nvcc itself names: nvcc on PATH may be a wrapper far from it."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which("nvcc", path=f"{home}/bin{os.pathsep}{os.environ['PATH']}")
    asked = nvcc and subprocess.run(
        [nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True
    )
    named = asked and re.search(r"^#\$ TOP=(.*)$", asked.stderr, re.MULTILINE)
    return os.path.realpath(named[1]) if named else None


cuda_home = toolkit()
wish = os.environ.get("FASTROBUST_CUDA", "1" if cuda_home and torch.version.cuda else "0")
cuda = wish == "1"
if wish not in ("0", "1"):
    raise SystemExit(f"FASTROBUST_CUDA must be 0 or 1, got {wish!r}")
if cuda and not (cuda_home and torch.version.cuda):
    found = f"torch {torch.__version__}" if cuda_home else "no nvcc on PATH or under CUDA_HOME"
    raise SystemExit(f"FASTROBUST_CUDA=1 needs nvcc and a torch with CUDA, found {found}")
if cuda:
    os.environ["CUDA_HOME"] = cuda_home  # torch reads it on import of cpp_extension
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
else:
    print("fastrobust: building kernels for the CPU only (FASTROBUST_CUDA=1 asks for CUDA)")

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402

# No fast-math: the sign of a gradient near zero is the product. Fused operations are written out
# (-ffp-contract=off, -fmad=false), so that every CPU and GPU computes the same bits.
host = ["-O3", "-std=c++20", "-fopenmp", "-ffp-contract=off", "-fno-math-errno"]
flags = {"cxx": [*host, "-fno-trapping-math"], "nvcc": ["-O3", "-std=c++20", "-fmad=false"]}
listed = runpy.run_path(str(ROOT / "fastrobust" / "ops" / "sources.py"))
digest = listed["sources_digest"](CSRC)
architectures = os.environ["TORCH_CUDA_ARCH_LIST"] if cuda else ""
# The facts go to binding.cpp alone, so that a change of one kernel compiles that kernel alone.
flags["cxx"] += [f'-DFR_SOURCES="{digest}"', f'-DFR_ARCHITECTURES="{architectures}"']
files = [str(path.relative_to(ROOT)) for path in listed["sources"](CSRC)]
extension = (CUDAExtension if cuda else CppExtension)(
    name="fastrobust._C",
    sources=[*(f for f in files if f.endswith(".cpp") or (cuda and f.endswith(".cu")))],
    depends=files,
    include_dirs=[str(CSRC)],
    define_macros=[("FR_CUDA", None)] * cuda,
    extra_compile_args=flags,
    extra_link_args=["-fopenmp", "-s"],
)
setup(ext_modules=[extension], cmdclass={"build_ext": BuildExtension})
