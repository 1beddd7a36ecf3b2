import pytest
import torch
from torch import nn

from fastrobust.models import architecture, by_name, densenet


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    # Huang et al. 2017, table 2 (1.0M, 0.8M), to the digit in the public model zoos that follow it.
    [("40-12", 176_122), ("100-12", 769_162), ("plain-40-12", 1_019_722)],
)
def test_parameter_counts_are_the_published_ones(name, count):
    assert parameters(by_name(name)) == count


def test_a_layer_is_what_the_paper_draws():
    """One BC layer and one transition, written out by hand with the net's own weights."""
    net = densenet(layers=(1, 1), growth=4, in_channels=2, num_outputs=3).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    state, x = net.state_dict(), torch.rand(2, 2, 8, 8, dtype=torch.float64)

    def norm_relu(prefix, h):
        mean, var, gain, bias = (
            state[f"{prefix}.{k}"].reshape(1, -1, 1, 1)
            for k in ("running_mean", "running_var", "weight", "bias")
        )
        return ((h - mean) / (var + 1e-5).sqrt() * gain + bias).clamp_min(0)

    def dense(prefix, h):
        wide = nn.functional.conv2d(
            norm_relu(f"{prefix}.bottleneck.norm", h), state[f"{prefix}.bottleneck.conv.weight"]
        )
        new = nn.functional.conv2d(
            norm_relu(f"{prefix}.grow.norm", wide), state[f"{prefix}.grow.conv.weight"], padding=1
        )
        return torch.cat([h, new], 1)

    h = dense("blocks.0.0", nn.functional.conv2d(x, state["stem.weight"], padding=1))
    h = nn.functional.conv2d(
        norm_relu("transitions.0.0.norm", h), state["transitions.0.0.conv.weight"]
    )
    h = h.reshape(2, 6, 4, 2, 4, 2).mean((3, 5))
    h = norm_relu("norm", dense("blocks.1.0", h)).mean((2, 3))
    expected = h @ state["linear.weight"].T + state["linear.bias"]
    assert torch.allclose(net(x), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["digits", "22-12", "plain-10-6"])
def test_architecture_rebuilds_the_network(name):
    net = by_name(name, in_channels=1, num_outputs=7)
    again = densenet(**architecture(net))
    again.load_state_dict(net.state_dict())
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(net.eval()(x), again.eval()(x))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: densenet(41), "multiple of 6 with a bottleneck, got 41"),
        (lambda: densenet(41, bottleneck=False), "multiple of 3"),
        (lambda: densenet(4), "got 4"),
        (lambda: densenet(growth=0), "growth must be >= 1, got 0"),
        (lambda: densenet(compression=0), "compression"),
        (lambda: densenet(layers=()), "layers"),
        (lambda: by_name("resnet"), "resnet"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_architecture_of_a_foreign_network():
    with pytest.raises(TypeError, match="DenseNet, got Linear"):
        architecture(nn.Linear(2, 2))
