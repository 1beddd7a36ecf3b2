"""Which networks and machines the fused engine takes, and that nobody else notices."""

import os
import subprocess
import sys
from pathlib import Path

import nets
import pytest
import torch
from nets import random_net
from test_engine import ask
from torch import nn

import fastrobust as fr
from fastrobust import engine
from fastrobust.engine.fused import FusedDenseNet


def spoilt(change):
    net = random_net(layers=[1, 1])
    change(net)
    return net


def reflecting(net):
    net.stem = nn.Conv2d(1, 24, 3, padding=1, bias=False, padding_mode="reflect")


class Own(fr.models.DenseNet):
    pass


UNSUITED = {
    "a Sequential, not a DenseNet": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    "an? Own, not a DenseNet": lambda: Own([1, 1], 4, True, 0.5, 8, 1, 10),
    "hooks at norm": lambda: spoilt(lambda n: n.norm.register_forward_hook(lambda *_: None)),
    "hooks at the network": lambda: spoilt(lambda n: n.register_forward_pre_hook(lambda *_: None)),
    "hooks at stem": lambda: spoilt(lambda n: n.stem.register_full_backward_hook(lambda *_: None)),
    "a forward of its own at linear": lambda: spoilt(
        lambda n: setattr(n.linear, "forward", lambda x: x[:, :10])),
    "stem.weight in float64, not float32": lambda: random_net(layers=[1, 1]).double(),
    "stem.weight in bfloat16, not float32": lambda: random_net(layers=[1, 1]).bfloat16(),
    "a convolution with a bias at stem": lambda: spoilt(
        lambda n: setattr(n, "stem", nn.Conv2d(1, 24, 3, padding=1))),
    "other modules than it was built of at stem": lambda: spoilt(reflecting),
    "other modules than it was built of at blocks.0": lambda: spoilt(
        lambda n: n.blocks.__setitem__(0, n.blocks[0].append(nn.Sequential()))),
    "a GroupNorm in it at norm": lambda: spoilt(
        lambda n: setattr(n, "norm", nn.GroupNorm(1, 30))),
    "a norm without statistics": lambda: spoilt(
        lambda n: setattr(n, "norm", nn.BatchNorm2d(30, track_running_stats=False))),
}  # fmt: skip


@pytest.mark.parametrize("reason", UNSUITED)
def test_what_does_not_suit_goes_to_autograd_or_says_why(reason):
    net = UNSUITED[reason]().eval()
    model = engine.prepare(net)
    assert model.search.name == "autograd"
    with pytest.raises(ValueError, match=f"fused engine must .* got {reason}"):
        engine.prepare(net, backend="fused")
    with pytest.raises(ValueError, match=f"net must suit the fused engine, got {reason}"):
        FusedDenseNet(net)
    x = torch.rand(2, 1, 8, 8, dtype=next(net.parameters()).dtype)
    torch.testing.assert_close(model(x), net(x).float() if x.dtype is torch.bfloat16 else net(x))


def test_images_of_another_type_are_refused():
    model = engine.prepare(random_net(layers=[1, 1]))
    with pytest.raises(TypeError, match="images must be float32 like the network, got float64"):
        model(torch.rand(2, 1, 8, 8, dtype=torch.float64))


def test_what_stops_to_suit_is_not_run():
    net = random_net(layers=[1, 1])
    model = engine.prepare(net)
    net.linear.register_forward_hook(lambda *args: args[2] * 0)
    with pytest.raises(ValueError, match="must still suit the fused engine, got hooks at linear"):
        model(torch.rand(2, 1, 8, 8))
    x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    assert not ask(net, x, y).grad.any()


@pytest.mark.parametrize("shape", [(2, 64), (1, 8, 8), (2, 3, 8, 8), (2, 1, 1, 8)])
def test_images_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="images must"):
        engine.prepare(random_net(layers=[1, 1]))(torch.rand(shape))


def test_a_lesser_cpu_gives_the_same_bits_but_no_bf16():
    """The environment variable is read once, so the answer comes from a process of its own."""
    code = (
        "import torch; from nets import random_net; from fastrobust.engine import folding, prepare;"
        "torch.manual_seed(0); net = random_net(layers=[2, 1], growth=5);"
        "x = torch.rand(3, 1, 9, 7, requires_grad=True); prepare(net)(x).sum().backward();"
        "print(folding.unsuited(net, 'bf16')); print(x.grad.numpy().tobytes().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(nets.__file__).parent, env={**os.environ, "FASTROBUST_CPU": "avx2"},
    )  # fmt: skip
    reason, bits = done.stdout.split("\n")[:2]
    assert reason == "a CPU without AVX512-BF16"
    if fr.build_info()["cpu"] in ("avx512", "amx"):
        torch.manual_seed(0)
        net = random_net(layers=[2, 1], growth=5)
        x = torch.rand(3, 1, 9, 7, requires_grad=True)
        engine.prepare(net)(x).sum().backward()
        assert x.grad.numpy().tobytes().hex() == bits
