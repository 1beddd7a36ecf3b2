"""Loads the compiled kernels ``fastrobust._C``."""

import importlib
from pathlib import Path
from types import ModuleType

import torch  # before _C, which needs torch's libraries in the process

from .sources import sources_digest

HOW = "build it with `python setup.py build_ext --inplace` or `pip install --no-build-isolation .`"
CSRC = Path(__file__).parents[2] / "csrc"


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
