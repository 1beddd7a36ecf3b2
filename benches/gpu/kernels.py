"""Each kernel on a GPU against the memory, in-place PyTorch and torch.compile; then iterations.

Columns of a kernel: device milliseconds from a cold L2, spread (interquartile range over median),
bytes that it must move, floor (those bytes at the speed of a measured copy), share of that floor,
and how many times longer in-place eager PyTorch and ``torch.compile`` of the reference take (median
and quartiles of interleaved rounds). What another way cannot do is said in "without".
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastrobust.ops.conv_spectrum_op import conv_spectrum, half_plane
from fastrobust.ops.decode_op import decode, decode_ref

from ..cases import LENGTH, Case, head_cases, search_cases, step_cases
from ..timer import Timing, interleave, ratio, synchronize
from . import iterations
from .report import Deadline, Row, attempt, said, timed_out
from .timer import ColdTimer, copy_bandwidth

BATCHES = 256, 4096
CODEWORDS = 10, 1000, 10_000
SPECTRA = 16  # convolutions of a DenseNet's layer: 48 to 12 channels, 3x3, on 32x32
SHARE = 0.6  # of the part's time: the rest is for whole iterations
Once = Callable[[Callable[[], object]], float]


def rows(deadline: Deadline) -> Iterator[Row]:
    """Measure the copy, every kernel, then iterations of attacks."""
    timer = ColdTimer()
    bandwidth = copy_bandwidth(timer)
    yield {"table": "memory", "copy, GB/s": bandwidth / 1e9, "bytes": 1 << 30}
    own = Deadline(SHARE * deadline.left(), deadline.clock)
    # Without compilers first, so that a cut-off leaves a row of each kernel.
    for compiling in (False, True):
        table = "torch.compile" if compiling else "kernels"
        for at, (make, batch) in enumerate(GROUPS):
            if not own.left():
                missed = ({"table": table, "op": m.__name__, "N": n} for m, n in GROUPS[at:])
                yield from timed_out(missed)
                break
            yield from measured(table, make, batch, bandwidth, own.share(len(GROUPS) - at), timer)
    yield from iterations.rows(deadline)


def measured(
    table: str,
    make: Callable[[int, torch.device], list[Case]],
    batch: int,
    bandwidth: float,
    seconds: float,
    timer: Once,
) -> Iterator[Row]:
    """Rows of one group of cases."""
    try:
        cases = make(batch, torch.device("cuda"))
    except Exception as error:
        yield {"table": table, "op": make.__name__, "N": batch, "failed": said(error)}
        return
    for case in cases:
        key = {"table": table, "op": case.name, "N": case.rows}
        wish = min(2.0, seconds / len(cases))
        yield attempt(
            key,
            lambda case=case, wish=wish: kernel_row(
                case, bandwidth, wish, timer, table == "torch.compile"
            ),
        )


def kernel_row(case: Case, bandwidth: float, seconds: float, timer: Once, compiling: bool) -> Row:
    """Time one kernel beside PyTorch's best, or beside its reference compiled."""
    candidates, without = {"kernel": case.kernel}, {}
    others = {"in place": case.in_place, "reference": case.reference}
    if compiling:
        torch._dynamo.reset()
        others = {"compiled": torch.compile(case.reference, dynamic=False)}
    for name, call in others.items():
        if call is None:
            continue
        try:
            for _ in range(3):  # compilers and libraries choose here
                call()
            synchronize()
            candidates[name] = call
        except torch.cuda.OutOfMemoryError:
            without[name] = "out of memory"
        except Exception as error:  # a compiler that is not there, or cannot do it
            without[name] = said(error)
    return figures(case, interleave(candidates, seconds, once=timer), bandwidth, without)


def figures(case: Case, timings: dict[str, Timing], bandwidth: float, without: dict) -> Row:
    """Make the row of a table from the times."""
    kernel = timings["kernel"]
    floor = case.bytes / bandwidth
    row: Row = {
        "ms": 1e3 * kernel.median,
        "spread": kernel.spread,
        "bytes": case.bytes,
        "floor, ms": 1e3 * floor,
        "of floor": floor / kernel.median,
    }
    for name, timing in timings.items():
        if name != "kernel":
            row[f"x {name}"] = ratio(timing, kernel)
    if without:
        row["without"] = "; ".join(f"{name}: {why}" for name, why in without.items())
    return row


def decode_cases(batch: int, device: torch.device) -> list[Case]:
    """Decoding among few and many codewords of 128 units."""
    cases = []
    u = torch.rand(batch, LENGTH, device=device) * 2 - 1
    for count in CODEWORDS:
        codes = torch.rand(count, LENGTH, device=device) * 2 - 1
        cases.append(
            Case(
                f"decode, K = {count}",
                batch,
                lambda codes=codes: decode(u, codes),
                lambda codes=codes: decode_ref(u, codes),
                TorchDecode(u, codes),
                u.nbytes + codes.nbytes + 12 * batch,  # an index and a distance a row
            )
        )
    return cases


class TorchDecode:
    """The nearest codeword by one matrix product into memory that is there already."""

    def __init__(self, u: Tensor, codes: Tensor) -> None:
        self.u, self.codes, self.half = u, codes, codes.square().sum(1).neg() / 2
        self.scores = u.new_empty(len(u), len(codes))

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return the index (N,) and the squared distance (N,)."""
        torch.addmm(self.half, self.u, self.codes.T, out=self.scores)
        index = self.scores.argmax(1)
        return index, (self.u - self.codes[index]).square_().sum(1)


def spectrum_cases(count: int, device: torch.device) -> list[Case]:
    """All singular values of 3x3 convolutions against SVDs of their transforms."""
    weight = torch.randn(count, 48, 12, 9, device=device)
    places = tuple((y, x) for y in range(3) for x in range(3))

    def by_svd() -> Tensor:
        kernel = weight.unflatten(3, (3, 3))
        waves = torch.fft.rfft2(kernel, s=(32, 32)).permute(0, 3, 4, 1, 2)
        return torch.linalg.svdvals(waves)

    values = count * len(half_plane(32, 32)) * 12 * weight.element_size()
    return [
        Case(
            "conv_spectrum",
            count,
            lambda: conv_spectrum([weight], [places], [(32, 32)]),
            by_svd,
            None,
            weight.nbytes + values,
        )
    ]


GROUPS = [
    *((make, batch) for batch in BATCHES for make in (step_cases, head_cases, decode_cases)),
    *((search_cases, batch) for batch in BATCHES),
    (spectrum_cases, SPECTRA),
]
