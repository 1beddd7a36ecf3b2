"""Each op against PyTorch, against the memory, and against a whole DenseNet step.

Run ``python -m benches.bench_ops [--json FILE] [--device cuda] [--seconds 1]``.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

import fastrobust as fr

from .cases import CASES, Case
from .timer import Timing, interleave, ratio

BATCHES = (256, 4000)
STEP_ROWS = 32  # images of the network step, which costs the same per image at any larger batch
HEADER = "op", "N", "ms", "spread", "x ref", "x in-place", "GB/s", "of copy", "of a step"


def measure(case: Case, seconds_of_step: float, device: torch.device, seconds: float) -> dict:
    """Time one case beside a copy of as many bytes; returns one row of the table."""
    source = torch.rand(case.bytes // 8, device=device)  # read once and written once
    target = torch.empty_like(source)
    candidates = {
        "kernel": case.kernel,
        "reference": case.reference,
        "copy": lambda: target.copy_(source),
    }
    if case.in_place:
        candidates["in_place"] = case.in_place
    timings = interleave(candidates, seconds)
    kernel = timings["kernel"]
    return {
        "op": case.name,
        "N": case.rows,
        "ms": 1e3 * kernel.median,
        "spread": kernel.spread,
        "x ref": ratio(timings["reference"], kernel),
        "x in-place": ratio(timings["in_place"], kernel) if case.in_place else None,
        "GB/s": case.bytes / kernel.median / 1e9,
        "of copy": ratio(timings["copy"], kernel),
        "of a step": kernel.median / case.rows / seconds_of_step,
        "cold ms": 1e3 * kernel.cold,
    }


def network_step(device: torch.device) -> Timing:
    """Time one forward and backward to the input of DenseNet BC 40-12, eager float32."""
    net = fr.models.densenet(40, 12, num_outputs=128).to(device).eval().requires_grad_(False)
    x = torch.rand(STEP_ROWS, 3, 32, 32, device=device, requires_grad=True)

    def step() -> object:
        return torch.autograd.grad(net(x).square().sum(), x)

    return interleave({"step": step}, seconds=5, least=5)["step"]


def run(device: torch.device, seconds: float) -> dict[str, Any]:
    """Measure everything; returns the machine, the seconds per image of a step, and the rows."""
    step = network_step(device).median / STEP_ROWS
    # One group after the other: all of them together would fill some machines.
    cases = (case for rows in BATCHES for make in CASES for case in make(rows, device))
    return {
        "machine": machine(device),
        "step_seconds_per_image": step,
        "rows": [measure(case, step, device, seconds) for case in cases],
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = Path("/proc/cpuinfo")
    models = [line for line in cpu.read_text().splitlines() if "model name" in line]
    return {
        "cpu": models[0].split(":")[1].strip() if models else platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "build": fr.build_info(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Lay the rows out as one Markdown table; a ratio is its median (first to third quartile)."""
    write = {
        "ms": "{:.3f}".format,
        "spread": "{:.0%}".format,
        "x ref": _times,
        "x in-place": _times,
        "GB/s": "{:.1f}".format,
        "of copy": lambda ratio: f"{ratio[0]:.0%}",
        "of a step": "{:.3%}".format,
    }
    lines = ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
    for row in rows:
        cells = ["" if row[key] is None else write.get(key, str)(row[key]) for key in HEADER]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _times(ratio: tuple[float, float, float]) -> str:
    middle, low, high = ratio
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def main() -> None:
    """Measure, print the table, and write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--seconds", type=float, default=1.0, help="per row of the table")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    wishes = parser.parse_args()
    results = run(wishes.device, wishes.seconds)
    facts = results["machine"]
    processor = facts["gpu"] or facts["cpu"]
    print(f"{processor}, {facts['threads']} threads, {facts['build']['cpu']} kernels")
    print(f"torch {facts['torch']}; a step: {1e3 * results['step_seconds_per_image']:.2f} ms/image")
    print(table(results["rows"]))
    if wishes.json:
        wishes.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
