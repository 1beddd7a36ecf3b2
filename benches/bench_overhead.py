"""What an attack costs beside its network: `PGD` over a bare PyTorch loop, and opening a model.

Run ``python -m benches.bench_overhead``. One image of a small network, so that the calls around it
show. The loop is what one writes by hand: frozen weights, sign steps, projection; it counts no
queries, checks no argument and makes no decision. It uses public names alone, so that another
version can be measured by PYTHONPATH.
"""

import time

import torch
from torch import Tensor, nn

import fastrobust as fr

from .timer import interleave, ratio

EPS, STEP, STEPS = 0.1, 0.02, 40
NETS = {"digits": "digits", "BC 40-12": "40-12", "BC 100-12": "100-12"}


def bare(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the images after a plain loop of sign steps."""
    x0, x = x, x.clone()
    for _ in range(STEPS):
        leaf = x.requires_grad_()
        loss = nn.functional.cross_entropy(net(leaf), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, leaf)
        with torch.no_grad():
            x = torch.clamp(x0 + (leaf + STEP * grad.sign() - x0).clamp(-EPS, EPS), 0, 1)
    return x


def overhead(name: str, net: nn.Module, x: Tensor, backend: str) -> None:
    """Print how long PGD takes over the bare loop on one network."""
    net = net.eval().requires_grad_(False)
    y = net(x).argmax(1)
    # The start and the last iterate are the loop's, and no success ends a row.
    attack = fr.attacks.PGD(eps=EPS, step_size=STEP, steps=STEPS, random_start=False, keep="last")
    model = fr.engine.prepare(net, backend=backend)
    timings = interleave({"bare": lambda: bare(net, x, y), "PGD": lambda: attack(model, x, y)}, 4)
    times, low, high = ratio(timings["PGD"], timings["bare"])
    extra = 1e6 * (timings["PGD"].median - timings["bare"].median) / STEPS
    print(f"{name}, N={len(x)}: PGD {times:.2f} times the loop ({low:.2f}-{high:.2f}), "
          f"{extra:+.0f} us a step")  # fmt: skip


def opening(name: str, net: nn.Module, x: Tensor) -> None:
    """Print how long it takes until a prepared model can be asked, beside one forward."""
    model = fr.engine.prepare(net.eval())

    def open_it() -> None:
        with fr.engine.oracle(model, x.device):
            pass

    open_it()
    spent = []
    for _ in range(100):
        start = time.perf_counter()
        open_it()
        spent.append(time.perf_counter() - start)
    spent.sort()
    print(f"{name}: opening takes {1e3 * spent[50]:.2f} ms "
          f"({1e3 * spent[5]:.2f}-{1e3 * spent[95]:.2f})")  # fmt: skip


def main() -> None:
    """Print a line per network."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    x = torch.rand(1, 1, 8, 8)
    overhead("two linear layers", small, x, "autograd")
    overhead("two linear layers", small, torch.rand(64, 1, 8, 8), "autograd")
    overhead("digits by autograd", fr.models.by_name("digits", 1, 10), x, "autograd")
    for name, net in NETS.items():
        opening(name, fr.models.by_name(net, 3 if net != "digits" else 1, 10), x)


if __name__ == "__main__":
    main()
