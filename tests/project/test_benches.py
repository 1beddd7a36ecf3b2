"""The benchmarks compare like with like: what they time beside a kernel computes the same."""

import pytest
import torch

import fastrobust as fr

timer = pytest.importorskip("benches.timer", reason="benches are not installed")
torch_head = pytest.importorskip("benches.torch_head")
torch_cw = pytest.importorskip("benches.torch_cw")


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


def test_the_torch_cw_is_the_kernel():
    """Some searches fail, some succeed and start anew, one stops at its first success."""
    numbers = {"iterations": 5, "searches": 3, "patience": 2, "learning_rate": 0.1}
    box = {"lo": -1.0, "hi": 2.0}
    x0 = torch.rand(9, 1, 2, 3, dtype=torch.float64) * 3 - 1
    x0[0, 0, 0, 0] = 2.0
    const = torch.logspace(-1, 1, 9, dtype=torch.float64)
    ours, theirs = (fr.ops.CwRows.fresh(x0, const) for _ in range(2))
    ours.first_success[4] = theirs.first_success[4] = True
    nothing = torch.zeros(9, dtype=torch.float64)
    fr.ops.cw_step_(ours, torch.zeros_like(x0), nothing, nothing > 0, **numbers, **box)
    step = torch_cw.TorchCW(theirs, **numbers, **box)
    names = [name for name in vars(ours) if name not in ("x", "w", "m", "v")]
    restarts = 0
    for _ in range(17):
        ending = (ours.search < 3) & ~(ours.first_success & ours.won)
        for name in ("x", "w"):  # of those that go on
            a, b = getattr(ours, name)[ending], getattr(theirs, name)[ending]
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        for name in names:
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), msg=name)
        restarts += int((ours.t == 0).sum())
        f = ours.x.flatten(1).sum(1) - 2.5
        grad = torch.ones_like(x0)
        fr.ops.cw_step_(ours, grad, f, f <= 0, **numbers, **box)
        step(grad, f, f <= 0)
    assert restarts > 9 and 0 < ours.won.sum() < 9 and (ours.search == 3).any()


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
