"""What a machine must have to measure on its GPU, what it has, and what it is called.

Nothing here imports fastrobust: its extension may still have to be built.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
_QUERY = (
    "driver_version", "memory.total", "power.limit", "clocks.sm", "clocks.mem", "clocks.max.sm",
    "clocks.max.mem", "ecc.mode.current", "mig.mode.current", "utilization.gpu", "temperature.gpu",
)  # fmt: skip


class MissingError(Exception):
    """The machine lacks something; the message says the wish and the fact."""


def torch_cuda() -> str | None:
    """CUDA version that PyTorch was built with."""
    return torch.version.cuda


def cards() -> int:
    """GPUs that PyTorch sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def compiler() -> str | None:
    """Path of nvcc, on PATH or under /usr/local/cuda."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def nvcc() -> str | None:
    """Version of nvcc; None where there is none."""
    found = compiler()
    if not found:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    version = re.search(r"V([\d.]+)", said)
    return version[1] if version else "unknown"


def extension() -> dict[str, Any] | str:
    """What the extension was built as, or why it does not load; asked in a process of its own."""
    ask = "import fastrobust, json; print(json.dumps(fastrobust.build_info()))"
    run = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT)
    if run.returncode:
        return last_line(run.stderr)
    facts: dict[str, Any] = json.loads(run.stdout)
    return facts


def architecture() -> str:
    """Compute capability of the first card, as TORCH_CUDA_ARCH_LIST writes it: "9.0"."""
    return "{}.{}".format(*torch.cuda.get_device_capability(0))


def require_machine() -> None:
    """Raise MissingError unless there are a CUDA build of PyTorch, a GPU, and nvcc."""
    if torch_cuda() is None:
        raise MissingError(f"torch must be a CUDA build, got a CPU build, {torch.__version__}")
    if not cards():
        raise MissingError(
            f"there must be a CUDA GPU that torch sees, got none (torch {torch.__version__})"
        )
    if nvcc() is None:
        raise MissingError("nvcc must be on PATH or in /usr/local/cuda/bin, got none")


def require_extension() -> None:
    """Raise MissingError unless the extension is a CUDA build for the card and fits the sources."""
    found = extension()
    if isinstance(found, str):
        raise MissingError(f"the extension must load, got: {found}")
    if found["cuda"] is None:
        raise MissingError("the extension must be a CUDA build, got one for the CPU")
    if not suits(found["architectures"], architecture()):
        raise MissingError(
            f"the extension must be built for this card's architecture {architecture()}, "
            f"got {found['architectures']}"
        )


def suits(architectures: str, card: str) -> bool:
    """Whether code for a list like "8.0;9.0+PTX" runs on a card without being compiled again."""
    return card in [word.removesuffix("+PTX") for word in re.split(r"[;\s]+", architectures)]


def describe() -> dict[str, Any]:
    """Card, driver, versions, and clocks as they are found."""
    properties = torch.cuda.get_device_properties(0)
    facts = {
        "card": properties.name,
        "capability": architecture(),
        "processors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "torch": torch.__version__,
        "torch_cuda": torch_cuda(),
        "nvcc": nvcc(),
        "python": sys.version.split()[0],
        "extension": extension(),
    }
    return {**facts, "nvidia_smi": smi(_QUERY)}


def smi(names: tuple[str, ...]) -> dict[str, str]:
    """Answers of nvidia-smi for the first card, by name; those that it has none for say so."""
    if not shutil.which("nvidia-smi"):
        return dict.fromkeys(names, "no nvidia-smi")
    found = {}
    for name in names:  # one by one: a name that a driver does not know spoils the others
        run = subprocess.run(
            ["nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True,
        )  # fmt: skip
        found[name] = run.stdout.strip() if run.returncode == 0 else "not known here"
    return found


def slug(card: str) -> str:
    """Return the name of a card as a file's: "NVIDIA H100 80GB HBM3" is nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"
