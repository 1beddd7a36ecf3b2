"""What keeping freed memory saves the command line on a small network; processes take turns.

Run ``python -m benches.bench_allocator [--runs 5]``.
"""

import argparse
import subprocess
import sys

from .timer import Timing, ratio

# One thread, random weights, 200 images of 8 x 8: BIM as the quick sweep runs it.
WORK = """
import sys, time, torch
import fastrobust as fr
from fastrobust import allocator
if sys.argv[1] == "kept":
    allocator.keep_freed_memory()
torch.set_num_threads(1)
net = fr.models.by_name("digits", in_channels=1)
x, y = torch.rand(200, 1, 8, 8), torch.arange(200) % 10
attack = fr.attacks.BIM(eps=0.1, steps=20)
attack(net, x, y)
start = time.perf_counter()
attack(net, x, y)
print(time.perf_counter() - start)
"""


def main(arguments: list[str] | None = None) -> None:
    """Print how many times longer the attack takes where freed memory goes back to the kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args(arguments).runs
    seconds: dict[str, list[float]] = {"given back": [], "kept": []}
    for _ in range(runs):
        for name, taken in seconds.items():
            command = [sys.executable, "-c", WORK, name]
            taken.append(float(subprocess.check_output(command, text=True)))
    back, kept = (Timing(name, taken[0], tuple(taken)) for name, taken in seconds.items())
    middle, low, high = ratio(back, kept)
    print(
        f"freed memory given back against kept: {middle:.2f}x ({low:.2f}-{high:.2f}), {runs} runs"
    )


if __name__ == "__main__":
    main()
