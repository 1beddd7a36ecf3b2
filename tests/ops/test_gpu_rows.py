"""What `make gpu` times and how it counts, by the logic that needs no GPU and times made up."""

import pytest
import torch

import fastrobust as fr
from fastrobust.engine import folding

gpu_kernels = pytest.importorskip("benches.gpu.kernels", reason="benches are not installed")
from benches import cases
from benches.gpu import compile_report, engine, iterations
from benches.gpu import timer as gpu_timer
from benches.gpu.report import Deadline
from benches.timer import Timing, interleave, ratio

CPU = torch.device("cpu")


def timing(seconds, count=9):
    return Timing("made up", seconds, (seconds,) * count)


def case(reference=lambda: None, in_place=None):
    return cases.Case("op", 4, lambda: None, reference, in_place, 6_000_000)


def test_shares_are_of_the_measured_copy():
    """6 MB at 3 TB/s are 2 microseconds: a quarter of 8."""
    timings = {"kernel": timing(8e-6), "in place": timing(24e-6)}
    row = gpu_kernels.figures(case(), timings, 3e12, {"compiled": "no triton"})
    assert row.pop("x in place") == pytest.approx((3, 3, 3))
    assert row == {
        "ms": pytest.approx(8e-3),
        "spread": 0,
        "bytes": 6_000_000,
        "floor, ms": pytest.approx(2e-3),
        "of floor": pytest.approx(0.25),
        "without": "compiled: no triton",
    }


def test_a_way_that_fails_leaves_the_others():
    def broken():
        raise RuntimeError("no compiler\nat all")

    def large():
        raise torch.cuda.OutOfMemoryError("9 GiB")

    row = gpu_kernels.kernel_row(case(broken, large), 1e9, 0, lambda call: call() or 1e-3, False)
    assert row["without"] == "in place: out of memory; reference: no compiler"
    assert row["ms"] == 1 and "x reference" not in row


@pytest.mark.parametrize("case", gpu_kernels.decode_cases(31, CPU), ids=lambda case: case.name)
def test_the_torch_decode_is_the_kernel(case):
    (index, distance), (ours, far) = case.in_place(), case.kernel()
    assert torch.equal(index, ours)
    torch.testing.assert_close(distance, far, rtol=1e-5, atol=1e-4)


def test_the_spectrum_is_that_of_the_transforms():
    (case,) = gpu_kernels.spectrum_cases(2, CPU)
    ours, theirs = case.kernel()[0], case.reference()
    half = gpu_kernels.half_plane(32, 32)
    right = torch.stack([theirs[:, u, v] for u, v, _ in half], 1)
    torch.testing.assert_close(ours.sort(descending=True).values, right, rtol=1e-3, atol=1e-3)
    assert case.bytes == 4 * (2 * 48 * 12 * 9 + ours.numel())


def test_what_the_time_does_not_reach_is_said(monkeypatch):
    now = [0.0]

    def measured(table, make, batch, *_):
        now[0] += 5
        yield {"table": table, "op": make.__name__, "N": batch}

    monkeypatch.setattr(gpu_kernels, "ColdTimer", lambda: None)
    monkeypatch.setattr(gpu_kernels, "copy_bandwidth", lambda timer: 3e12)
    monkeypatch.setattr(gpu_kernels, "measured", measured)
    monkeypatch.setattr(iterations, "rows", lambda deadline: iter([{"table": "iterations"}]))
    first, *rows, last = gpu_kernels.rows(Deadline(100, lambda: now[0]))
    assert first["copy, GB/s"] == 3000 and last == {"table": "iterations"}
    groups = len(gpu_kernels.GROUPS)
    assert [row["op"] for row in rows] == 2 * [make.__name__ for make, _ in gpu_kernels.GROUPS]
    reached = ["failed" not in row for row in rows]
    assert all(reached[:groups]) and 0 < sum(reached[groups:]) < groups
    assert rows[-1]["failed"] == "not measured: the time of this part is over"


@pytest.mark.parametrize("attack", iterations.ATTACKS.values(), ids=repr)
def test_an_iteration_moves_every_row_and_none_ends(attack):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    models = {name: fr.engine.prepare(net, backend="autograd") for name in ("launched", "graph")}
    row = iterations.measure(models, attack, torch.rand(5, 3, 2, 2), 0)
    assert set(row) == {
        *(f"{name}, {what}" for name in models for what in ("ms", "spread")),
        "x launched over graph",
    }
    assert 0 < row["launched, ms"] < 1000
    states = []
    start = type(attack).start

    class Watched(type(attack)):
        def start(self, *arguments, **options):
            states.append(start(self, *arguments, **options))
            return states[-1]

    watched = Watched(**{name: getattr(attack, name) for name in attack.__dataclass_fields__})
    iterations.measure(models, watched, torch.rand(5, 3, 2, 2), 0)
    for state in states:  # one, cold and warm, and five rounds, of ten iterations each
        assert (state.queries >= 80).all() and not attack.done(state).any()


def small(precisions=("fp32",)):
    net = fr.models.densenet(layers=[1, 1], growth=4, num_outputs=128).eval().requires_grad_(False)
    calls = {"eager fp32": engine.eager(net)}
    return net, calls | {f"engine {wish}": engine.fused(net, wish) for wish in precisions}


def test_the_engine_is_measured_beside_eager_and_float64():
    net, calls = small(("fp32", "tf32"))
    eager, ours, tf32 = engine.compare({"net": "tiny"}, calls, net, 20, 0, 10**6, 1e9)
    assert eager["gap"] < 1e-5 and ours["gap"] < 1e-5 and ours["signs"] == "1.00000"
    assert ours["rounds"] == "interleaved" and len(ours["x eager fp32"]) == 3
    moved = fr.ops.densenet_op.DenseNetGpuKernel(folding.shape_of(net), 32, 32).plan
    assert ours["MB/image"] == (moved.forward_bytes + moved.backward_bytes) / 1e6
    assert "MB/image" not in eager
    assert ours["of floor"] == pytest.approx(
        ours["MB/image"] * 1e6 * ours["images/s"] / 1e9, rel=0.01
    )
    assert torch.cuda.is_available() or "tf32 must have a network on a GPU" in tf32["failed"]


def test_an_engine_without_gradient_is_told_by_its_gap():
    net, calls = small()
    calls["engine fp32"] = lambda x, dz: -calls["eager fp32"](x, dz)
    _, wrong = engine.compare({}, calls, net, 3, 0, 1, 1)
    assert wrong["gap"] == pytest.approx(2, rel=1e-3) and wrong["signs"] == "0.00000"


def test_a_batch_that_is_too_large_is_a_row_and_not_an_end():
    net, calls = small()
    eager = calls["eager fp32"]

    def large(x, dz):
        if len(x) > engine.CHECKED:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 400 GiB")
        return eager(x, dz)

    calls["eager fp32"] = large
    first, ours = engine.compare({"N": 20}, calls, net, 20, 0, 1, 1)
    assert first == {
        "N": 20,
        "way": "eager fp32",
        "failed": "out of memory: CUDA out of memory. Tried to allocate 400 GiB",
    }
    assert ours["images/s"] > 0 and "x eager fp32" not in ours


def test_what_fits_only_alone_is_timed_alone(monkeypatch):
    """Two of three ways have memory of their own; the third runs out even then."""
    tried = {name: {} for name in "abc"}
    seen = []

    def times(calls, *_, **__):
        seen.append(list(calls))
        if len(calls) > 1 or "c" in calls:
            raise torch.cuda.OutOfMemoryError("too much")
        return {name: timing(1.0) for name in calls}

    monkeypatch.setattr(engine, "interleave", times)
    found, together = engine.take_times(dict.fromkeys("abc"), tried, None, None, 1)
    assert seen == [["a", "b", "c"], ["a"], ["b"], ["c"]] and not together
    assert set(found) == {"a", "b"} and tried["c"] == {"failed": "out of memory: too much"}
    seen.clear()
    monkeypatch.setattr(engine, "fits", lambda peaks: False)
    engine.take_times(dict.fromkeys("ab"), tried, None, None, 1)
    assert seen == [["a"], ["b"]]


def test_pieces_give_what_the_whole_gives():
    _, calls = small()
    net, _ = small()
    x, dz = torch.rand(5, 3, 32, 32), torch.randn(5, 128)
    whole = engine.eager(net)(x, dz)
    torch.testing.assert_close(engine.eager(net, piece=2)(x, dz), whole)
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_timer_may_be_named():
    asked = []

    def once(call):
        asked.append(call())
        return 2.0

    timings = interleave({"a": lambda: "a", "b": lambda: "b"}, 0, least=2, once=once)
    assert asked == list("ab") * 4 and timings["a"].seconds == (2.0, 2.0)
    assert ratio(timings["a"], timings["b"]) == (1, 1, 1)


def test_the_copy_counts_what_it_reads_and_writes(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "zeros", lambda *s, device, **o: empty(*s, **o).zero_())
    times = iter([9.0, 9.0, *[0.5] * 10])
    assert gpu_timer.copy_bandwidth(lambda call: call() is None or next(times), 1000) == 4000


PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN10fastrobust12tiles_kernelINS_9PlainBackILNS_9PrecisionE0EEEEEvT_' for 'sm_90'
ptxas info    : Function properties for _ZN10fastrobust12tiles_kernelINS_9PlainBackILNS_9PrecisionE0EEEEEvT_
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 8 bytes cumulative stack size
ptxas info    : Function properties for some_function
    0 bytes stack frame, 99 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers
ptxas info    : Compiling entry function '_ZN10fastrobust11rows_kernelINS_8HeadArgsIfEEEEvT_' for 'sm_90'
ptxas info    : Function properties for _ZN10fastrobust11rows_kernelINS_8HeadArgsIfEEEEvT_
    80 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 80 bytes cumulative stack size, 4608 bytes smem
"""  # noqa: E501


def test_the_compiler_is_read_right():
    rows = compile_report.parse("densenet.cu", PTXAS)
    assert [tuple(row)[2:] for row in rows] == [
        ("90", 168, 0, 8, 16, 24),
        ("90", 64, 4608, 80, 0, 0),
    ]
    text = compile_report.table(rows)
    assert "| densenet.cu | `tiles_kernel<PlainBack<0>>` | 90 | 168 | 0 | 8 | 16, 24 |" in text
    assert "`rows_kernel<HeadArgs<float>>`" in text
    told = compile_report.verdict(rows)
    assert told.startswith("1 of 2 kernels spill") and "<0>>` on sm_90 (16, 24)." in told
    assert compile_report.verdict(rows[1:]) == "None of 1 kernels spills registers."
