"""Loads the compiled kernels ``fastrobust._C`` and says what they were built with."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch  # before _C, which needs torch's libraries in the process

from .._version import __version__
from .sources import sources_digest

HOW = "build it with `python setup.py build_ext --inplace` or `pip install --no-build-isolation .`"
CSRC = Path(__file__).parents[2] / "csrc"


def build_info() -> dict[str, Any]:
    """Say what this build of fastrobust is.

    Returns:
        ``version`` of fastrobust; ``torch`` that the kernels were built against; ``cuda`` toolkit
        version or None for a CPU build; ``architectures`` of the GPU code ("" for a CPU build);
        ``cpu``: the instruction set chosen at run time, "portable", "avx2", "avx512" or "amx",
        which is AVX-512 with a matrix unit for bfloat16 (the environment variable FASTROBUST_CPU
        names a lesser one); ``bf16``: whether it has matrix products of bfloat16; ``compiler``;
        ``openmp``; ``sources``: digest of the C++ sources.

    Example:
        >>> import fastrobust as fr
        >>> fr.build_info()["version"] == fr.__version__
        True
    """
    return {"version": __version__, **kernels.facts()}


def load(name: str, csrc: Path) -> ModuleType:
    """Import the extension `name`.

    Args:
        name: full name of the extension module.
        csrc: folder of the sources; where it exists (a checkout, not a wheel), they must be those
            that the extension was built from.

    Raises:
        ImportError: it is missing, does not load, or is older or newer than the sources.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} must be compiled and is not: {HOW}") from error
    except ImportError as error:  # most often an undefined symbol
        raise ImportError(
            f"{name} must be compiled against the torch in use, {torch.__version__}, and does not "
            f"load ({error}): {HOW}"
        ) from error
    if csrc.is_dir() and module.facts()["sources"] != sources_digest(csrc):
        raise ImportError(f"{name} must be built from the present csrc/ and is stale: {HOW}")
    return module


kernels = load("fastrobust._C", CSRC)
