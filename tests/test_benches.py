"""The benchmarks compare like with like: what they time beside a kernel computes the same."""

import pytest
import torch

import fastrobust as fr

timer = pytest.importorskip("benches.timer", reason="benches are not installed")
torch_head = pytest.importorskip("benches.torch_head")


@pytest.mark.parametrize(
    ("loss", "codewords"),
    [("ce", True), ("mse", True), ("margin", True), ("ce", False), ("margin", False)],
)
def test_the_torch_head_is_the_head(loss, codewords):
    y = torch.arange(31) % 10
    codes = fr.Codebook.random(10, 16, key="bench").vectors.double() if codewords else None
    z = torch.randn(31, 16 if codewords else 10, dtype=torch.float64)
    head = torch_head.TorchHead(z, codes, y, loss)
    head()
    activation = "tanh" if codewords else "softmax"
    value, dz, decision, margin = fr.ops.head_ref(z, codes, y, activation, loss)
    torch.testing.assert_close(head.value[:, 0], value)
    torch.testing.assert_close(head.dz if codewords else head.weight, dz)
    torch.testing.assert_close(head.own[:, 0], margin)
    assert torch.equal(head.decision[:, 0], decision)


def test_ratios_pair_the_rounds():
    slow = timer.Timing("slow", 9, (2.0, 4.0, 6.0, 8.0, 10.0))
    fast = timer.Timing("fast", 9, (1.0, 2.0, 2.0, 4.0, 1.0))
    middle, low, high = timer.ratio(slow, fast)
    assert middle == 2.0 and low == 2.0 and high == 6.5
    assert fast.median == 2.0


def test_candidates_take_turns():
    calls = []
    candidates = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = timer.interleave(candidates, seconds=0, least=3)
    assert calls == list("ab") * 5  # one cold and one warm-up round, then three
    assert all(len(timing.seconds) == 3 for timing in timings.values())
