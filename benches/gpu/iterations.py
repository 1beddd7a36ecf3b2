"""One iteration of an attack, launched kernel by kernel and replayed as a CUDA graph.

Columns: milliseconds of an iteration by the clock, launches included, with the model prepared by
``graph=True`` ("graph, ms") and without ("launched, ms"), each with its spread; how many times
longer the launched one takes (median and quartiles of interleaved rounds).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.attacks import CWL2, MIM, PGD
from fastrobust.attacks.base import Attack
from fastrobust.attacks.targets import goal
from fastrobust.engine.prepared import Prepared

from ..timer import interleave, ratio
from .report import Deadline, Row, attempt, timed_out

BATCHES = 16, 64, 256, 1024, 4096
ENDLESS = 10**6  # no search may end while it is measured
ATTACKS: dict[str, Attack] = {
    "PGD": PGD(eps=8 / 255, step_size=2 / 255, steps=ENDLESS, keep="last"),
    "MIM": MIM(eps=8 / 255, step_size=2 / 255, steps=ENDLESS),
    "CWL2": CWL2(binary_search_steps=1, max_steps=ENDLESS, abort_early=False),
}


def small_cnn() -> nn.Module:
    """Three convolutions and a linear layer: a network of little but launches."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 64, 10),
    ).eval()  # fmt: skip


def networks() -> dict[str, tuple[nn.Module, str]]:
    """Return each network with the backend that runs it."""
    torch.manual_seed(0)
    return {
        "small CNN": (small_cnn(), "autograd"),
        "BC 40-12": (fr.models.densenet(40, 12).eval(), "fused"),
    }


def rows(deadline: Deadline) -> Iterator[Row]:
    """Measure small batches first: there the launches are."""
    cells = [(net, batch, name) for net in networks() for batch in BATCHES for name in ATTACKS]
    keys = [
        {"table": "iterations", "net": net, "N": batch, "attack": name}
        for net, batch, name in cells
    ]
    nets = {name: (net.cuda(), backend) for name, (net, backend) in networks().items()}
    for at, (name, batch, attack) in enumerate(cells):
        if not deadline.left():
            yield from timed_out(keys[at:])
            return
        net, backend = nets[name]
        seconds = min(3.0, deadline.share(len(cells) - at))
        yield attempt(
            keys[at],
            lambda net=net, backend=backend, attack=attack, batch=batch, seconds=seconds: measure(
                {
                    "launched": engine.prepare(net, backend=backend),
                    "graph": engine.prepare(net, backend=backend, graph=True),
                },
                ATTACKS[attack],
                torch.rand(batch, 3, 32, 32, device="cuda"),
                seconds,
            ),
        )


def measure(models: dict[str, Prepared], attack: Attack, x: Tensor, seconds: float) -> Row:
    """Time iterations of one attack on each of the models in turn."""
    count = max(1, min(10, 4096 // len(x)))  # so that launches may run ahead, as they do in a run
    with ExitStack() as stack:
        candidates = {
            name: repeated(stack, model, attack, x, count) for name, model in models.items()
        }
        for call in candidates.values():  # algorithms are chosen and graphs captured here
            call()
        timings = interleave(candidates, seconds, least=5)
    row: Row = {}
    for name, timing in timings.items():
        row[f"{name}, ms"] = 1e3 * timing.median / count
        row[f"{name}, spread"] = timing.spread
    first, *others = timings
    for name in others:
        row[f"x {first} over {name}"] = ratio(timings[first], timings[name])
    return row


def repeated(
    stack: ExitStack, model: Prepared, attack: Attack, x: Tensor, count: int
) -> Callable[[], None]:
    """Return a call that moves all rows `count` times; the stack keeps the model open."""
    network = stack.enter_context(engine.oracle(model, x.device))
    state = attack.start(network, x, goal(network, x, network.decide(x)[1], None))

    def iterate() -> None:
        for _ in range(count):
            attack.update(network, state)

    return iterate
