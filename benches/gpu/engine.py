"""The engine on a GPU: gradients of DenseNets by their input, beside eager and compiled PyTorch.

A gradient is one forward and one backward to the input from a random cotangent. Columns: images a
second with its spread, TFLOP/s (two for each multiplication of the network as it is written,
forward, and as many backward), times as fast as eager float32 (median and quartiles; rounds are
interleaved where all ways fit the card together, else each way runs alone), peak memory beyond what
was there before, bytes that the engine moves an image and their share of a measured copy's speed,
and on 16 images the distance from float64 by the norm and the share of equal signs.
"""

import gc
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.engine import folding
from fastrobust.engine.prepared import Prepared

from ..bench_engine import Call, Folded, operations
from ..timer import Timing, interleave, ratio
from .report import Deadline, Row, attempt, said, timed_out
from .timer import ColdTimer, copy_bandwidth

NETS = (40, 12), (40, 24), (100, 12)
BATCHES = 100, 500, 2000, 8000
PIECE = 500  # images that the compiled network takes at once: one compilation for each network
CHECKED = 16  # images compared with float64
SAFE = 0.8  # of the card, for all ways together
OUTPUTS = 128
ENGINES = "fp32", "tf32", "bf16"


def rows(deadline: Deadline) -> Iterator[Row]:
    """Measure every way but the compiled one, which may eat the time, and then that one."""
    bandwidth = copy_bandwidth(ColdTimer())
    yield {"table": "memory", "copy, GB/s": bandwidth / 1e9}
    for compiling in (False, True):
        batches = [b for b in BATCHES if b >= PIECE] if compiling else BATCHES
        cells = [(net, batch) for net in NETS for batch in batches]
        table = "torch.compile" if compiling else "engine"
        for at, ((depth, growth), batch) in enumerate(cells):
            if not deadline.left():
                missed = ((f"BC {d}-{g}", n) for (d, g), n in cells[at:])
                yield from timed_out({"table": table, "net": d, "N": n} for d, n in missed)
                break
            # The compiled way comes last and gets half of the time.
            share = deadline.share(len(cells) - at) * (1.0 if compiling else 0.5)
            key = {"table": table, "net": f"BC {depth}-{growth}", "N": batch}
            yield from measured(key, depth, growth, batch, share, bandwidth, compiling)


def measured(
    key: Row, depth: int, growth: int, batch: int, seconds: float, bandwidth: float, compiling: bool
) -> Iterator[Row]:
    """Rows of one network and batch, one for each way."""
    try:
        flops = operations(depth, 3, 32, growth)
        net, calls = made(depth, growth, compiling)
        yield from compare(key, calls, net, batch, seconds, flops, bandwidth)
    except Exception as error:  # the next network may do
        yield {**key, "failed": f"{type(error).__name__}: {said(error)}"}


@lru_cache(maxsize=1)
def made(depth: int, growth: int, compiling: bool) -> tuple[fr.models.DenseNet, dict[str, Call]]:
    """Return a network and its ways, the same ones for all batches: a compilation is a minute."""
    net = network(depth, growth)
    return net, compiled(net) if compiling else ways(net)


def network(depth: int, growth: int) -> fr.models.DenseNet:
    """Return a frozen DenseNet-BC on the GPU whose norms have seen noise."""
    torch.manual_seed(depth)
    net = fr.models.densenet(depth, growth, num_outputs=OUTPUTS).to(device())
    with torch.no_grad():
        for _ in range(2):
            net(torch.rand(32, 3, 32, 32, device=device()))
    return net.eval().requires_grad_(False)


def device() -> torch.device:
    """Where all of this runs; on a machine without a GPU, the tests do."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def ways(net: fr.models.DenseNet) -> dict[str, Call]:
    """Return eager PyTorch at its best, and the engine at each precision."""
    half = fr.models.densenet(**net.arguments).to(device()).eval().requires_grad_(False)
    half.load_state_dict(net.state_dict())
    half = half.to(torch.bfloat16, memory_format=torch.channels_last)
    calls = {
        "eager fp32": eager(net),
        "eager tf32": eager(net, tf32=True),
        "eager bf16 channels-last": eager(half, torch.bfloat16, torch.channels_last),
    }
    return calls | {f"engine {wish}": fused(net, wish) for wish in ENGINES}


def compiled(net: fr.models.DenseNet) -> dict[str, Call]:
    """Return the engine's bfloat16 and torch.compile's, with the norms folded in."""
    folded = Folded(net)
    folded.folded = [part.bfloat16() for part in folded.folded]
    call = eager(
        torch.compile(folded, dynamic=False), torch.bfloat16, torch.channels_last, piece=PIECE
    )
    return {"engine bf16": fused(net, "bf16"), "compiled, folded, bf16": call}


def eager(
    net: Callable[[Tensor], Tensor],
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    tf32: bool = False,
    piece: int | None = None,
) -> Call:
    """Return a gradient through autograd, whole batches at once unless `piece` says otherwise."""

    def gradient(x: Tensor, dz: Tensor) -> Tensor:
        parts = []
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
                for images, cotangents in zip(
                    x.split(piece or len(x)), dz.split(piece or len(x)), strict=True
                ):
                    leaf = images.to(dtype, memory_format=layout, copy=True).requires_grad_()
                    parts += torch.autograd.grad(net(leaf), leaf, cotangents.to(dtype))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return gradient


def fused(net: nn.Module, precision: str) -> Call:
    """Return the engine's gradient, in calls of the size that it chooses by itself.

    It is prepared by the first call: a precision that this machine cannot do is that row's failure.
    """
    prepared: list[Prepared] = []

    def gradient(x: Tensor, dz: Tensor) -> Tensor:
        if not prepared:
            prepared.append(engine.prepare(net, precision, backend="fused"))
        search = prepared[0].search
        rows = search.rows(x)
        parts = []
        with search.opened():
            for images, cotangents in zip(x.split(rows), dz.split(rows), strict=True):
                leaf = images.clone().requires_grad_()
                parts += torch.autograd.grad(search(leaf), leaf, cotangents)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return gradient


def exact(net: fr.models.DenseNet, x: Tensor, dz: Tensor) -> Tensor:
    """Return the gradient in float64."""
    double = fr.models.densenet(**net.arguments).to(device()).double().eval().requires_grad_(False)
    double.load_state_dict(net.state_dict())
    return eager(double, torch.float64)(x, dz)


def compare(
    key: Row,
    calls: dict[str, Call],
    net: fr.models.DenseNet,
    batch: int,
    seconds: float,
    flops: int,
    bandwidth: float,
) -> Iterator[Row]:
    """Try each way once for its errors and memory, time those that work, return all rows."""
    x = torch.rand(batch, 3, 32, 32, device=device())
    dz = torch.randn(batch, OUTPUTS, device=device())
    right = exact(net, x[:CHECKED], dz[:CHECKED])
    tried = {
        name: attempt({**key, "way": name}, lambda call=call: trial(call, x, dz, right))
        for name, call in calls.items()
    }
    works = {name: call for name, call in calls.items() if "failed" not in tried[name]}
    timings, together = take_times(works, tried, x, dz, seconds)
    first = next(iter(timings), None)
    for name, row in tried.items():
        if name in timings:
            row |= speed(timings[name], batch, flops)
            if together and first and name != first:
                row[f"x {first}"] = ratio(timings[first], timings[name])
            row["rounds"] = "interleaved" if together else "alone"
            row |= traffic(net, name, batch / timings[name].median, bandwidth)
        yield row


def trial(call: Call, x: Tensor, dz: Tensor, right: Tensor) -> Row:
    """Errors of a few images, then the memory of a second call: a first one chooses algorithms."""
    few = call(x, dz)[:CHECKED].double()  # of the whole batch: no compiler sees another shape
    gap = float((few - right).norm() / right.norm())
    signs = float((few.sign() == right.sign()).double().mean())
    empty()
    row: Row = {}
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    call(x, dz)
    if x.is_cuda:
        torch.cuda.synchronize()
        row["peak, GB"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    return {"gap": gap, "signs": f"{signs:.5f}", **row}


def take_times(
    works: dict[str, Call], tried: dict[str, Row], x: Tensor, dz: Tensor, seconds: float
) -> tuple[dict[str, Timing], bool]:
    """Time all ways in turn, or one after the other where the card is too small for that."""
    calls = {name: lambda call=call: call(x, dz) for name, call in works.items()}
    if calls and fits([tried[name].get("peak, GB", 0.0) for name in calls]):
        try:
            return interleave(calls, seconds, least=5, most=50), True
        except torch.cuda.OutOfMemoryError:
            pass  # together they are too much, after all
    found: dict[str, Timing] = {}
    for name, call in calls.items():
        empty()
        try:
            found |= interleave({name: call}, seconds / len(calls), least=5, most=50)
        except torch.cuda.OutOfMemoryError as error:
            tried[name]["failed"] = f"out of memory: {said(error)}"
    return found, False


def fits(peaks: list[float]) -> bool:
    """Whether so many GB, kept by the allocator at once, leave the card some room."""
    if not torch.cuda.is_available():
        return True
    return sum(peaks) * 1e9 < SAFE * torch.cuda.get_device_properties(0).total_memory


def empty() -> None:
    """Give memory that nobody uses back to the card."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def speed(timing: Timing, batch: int, flops: int) -> Row:
    """Images a second and what they come to."""
    rate = batch / timing.median
    return {"images/s": round(rate), "spread": timing.spread, "TFLOP/s": rate * flops / 1e12}


def traffic(net: fr.models.DenseNet, name: str, rate: float, bandwidth: float) -> Row:
    """Bytes that the engine moves an image (csrc/dense_plan.h), and how near the copy that is."""
    precision = name.removeprefix("engine ")
    if precision not in ENGINES:
        return {}
    kernel = fr.ops.densenet_op.DenseNetGpuKernel(folding.shape_of(net), 32, 32, precision)
    moved = int(kernel.plan.forward_bytes + kernel.plan.backward_bytes)
    return {"MB/image": moved / 1e6, "of floor": moved * rate / bandwidth}
