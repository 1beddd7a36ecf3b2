"""What this build of the package is."""

from typing import Any

from .._version import __version__
from .extension import kernels


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
