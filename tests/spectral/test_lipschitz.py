import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import jacobian, norm, random_net
from torch import nn

import fastrobust as fr
from fastrobust.models.networks import DenseLayer
from fastrobust.spectral.bounds import lipschitz

ROUNDING = 1e-9  # of float64 sums


def named(report):
    return {layer.name: layer for layer in report.layers}


def shaken(net, size):
    """Give norms statistics and weights of both signs."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3)
            module.weight.data.normal_()
            module.bias.data.normal_()
    return net.eval()


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(4, 7), st.integers(4, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    groups=st.sampled_from([1, 2]),
)
def test_a_convolution_is_bounded_as_it_pads(seed, size, kernel, stride, dilation, padding, groups):
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups)
    reach = [dilation * (k - 1) for k in kernel]
    if any(n + 2 * padding <= r for n, r in zip(size, reach, strict=True)):
        return
    true = norm(jacobian(conv, torch.zeros(2, *size)))
    (layer,) = lipschitz(conv, size).layers
    assert layer.bound >= true * (1 - ROUNDING)
    assert layer.raw == pytest.approx(circular(conv, size), rel=1e-9)


def circular(conv, size):
    """Norm of the circular convolution from its dense matrix, on a grid that the stride divides."""
    high, wide = (-(-n // s) * s for n, s in zip(size, conv.stride, strict=True))
    columns = torch.eye(conv.in_channels * high * wide, dtype=torch.float64)
    x = columns.reshape(-1, conv.in_channels, high, wide)
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    for _ in range(4):  # F.pad wraps once around at most
        for side, far in ((2, min(reach[0], high)), (3, min(reach[1], wide))):
            x = torch.cat([x, x.narrow(side, 0, far)], side)
            reach[side - 2] -= far
    y = F.conv2d(x, conv.weight.double(), None, conv.stride, 0, conv.dilation, conv.groups)
    y = y[:, :, : high // conv.stride[0], : wide // conv.stride[1]]
    return norm(y.reshape(len(columns), -1))


def test_circular_padding_is_exact():
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")
    report = lipschitz(conv, 6)
    true = norm(jacobian(conv, torch.zeros(2, 6, 6)))
    assert report.bound == pytest.approx(true, rel=1e-9)
    assert report.layers[0].raw == pytest.approx(true, rel=1e-9)


def test_a_linear_layer_is_exact():
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    assert lipschitz(net, 3).bound == pytest.approx(norm(net[1].weight.double()), rel=1e-12)


NETS = {
    "plain": lambda: nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(5, 4, 2),
        nn.Tanh(), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ),
    "norms": lambda: nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 5, 3, 2, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AvgPool2d(2), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1, groups=1), nn.BatchNorm2d(4),
        nn.MaxPool2d(2, 1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 6), nn.Sigmoid(),
        nn.BatchNorm1d(6), nn.Identity(), nn.Linear(6, 3), nn.BatchNorm1d(3),
    ),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same", groups=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, dilation=2, groups=2), nn.BatchNorm2d(6), nn.Flatten(),
        nn.Linear(6 * 36, 5), nn.Softmax(1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(5))
def test_no_jacobian_is_above_the_bound(name, seed):
    torch.manual_seed(seed)
    net = shaken(NETS[name](), 8)
    x = 3 * torch.randn(3, 2, 8, 8)
    report = lipschitz(net, 8, x)
    true = [norm(jacobian(net, image)) for image in x]
    assert report.bound >= max(true)
    assert report.lower_bound <= max(true) * (1 + ROUNDING)


@pytest.mark.parametrize("name", NETS)
def test_no_layer_is_below_the_truth_of_its_own(name):
    """Every prefix of a net is a net: its bound holds too, also where a norm stands last."""
    net = shaken(NETS[name](), 8)
    for length in range(1, len(net) + 1):
        prefix = net[:length]
        true = max(norm(jacobian(prefix, 3 * torch.randn(2, 8, 8))) for _ in range(2))
        assert lipschitz(prefix, 8).bound >= true * (1 - ROUNDING)


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": (2, 1), "growth": 4, "bottleneck": True},
        {"layers": (1, 2, 1), "growth": 3, "bottleneck": False, "compression": 1.0},
    ],
)
@pytest.mark.parametrize("head", ["ce", "codeword", "linear"])
def test_dense_nets_and_heads(settings, head):
    heads = {
        "ce": fr.heads.Softmax("ce"),
        "codeword": fr.heads.Codeword(fr.Codebook.random(5, 12, "key")),
        "linear": fr.heads.Linear(),
    }
    width = 12 if head == "codeword" else 5
    net = random_net(num_outputs=width, **settings)
    model = fr.Classifier(net, heads[head], (0.4, 0.25)).eval()
    x = torch.rand(4, 1, 8, 8)
    report = lipschitz(model, 8, x)
    scores = [norm(jacobian(model, image)) for image in x]
    assert report.bound >= max(scores)
    units = copy.deepcopy(model)
    units.forward = units.units
    assert math.exp(report.log_bound_units) >= max(norm(jacobian(units, image)) for image in x)
    z = nn.Sequential(copy.deepcopy(net))
    assert math.exp(report.log_bound_net) >= max(norm(jacobian(z, image)) / 0.25 for image in x)
    assert torch.allclose(report.images.stretch, torch.tensor(scores).double(), rtol=1e-3)


def small_resnet(block, seed=0):
    """torchvision's ResNet with few channels: its own are 64 and more."""
    resnet = pytest.importorskip("torchvision.models.resnet", exc_type=ImportError)
    kind = getattr(resnet, block)
    torch.manual_seed(seed)
    net = resnet.ResNet(kind, [1, 1, 1, 1], num_classes=3)
    net.conv1, net.bn1 = nn.Conv2d(1, 4, 7, 2, 3), nn.BatchNorm2d(4)
    channels = 4
    for number, (width, stride) in enumerate([(4, 1), (6, 2), (4, 2), (4, 1)], 1):
        wide = width * kind.expansion
        resize = None
        if stride != 1 or channels != wide:
            resize = nn.Sequential(nn.Conv2d(channels, wide, 1, stride), nn.BatchNorm2d(wide))
        first = kind(channels, width, stride, resize)
        setattr(net, f"layer{number}", nn.Sequential(first, kind(wide, width)))
        channels = wide
    net.fc = nn.Linear(channels, 3)
    return shaken(net, 16)


@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck"])
@pytest.mark.parametrize("seed", range(3))
def test_residual_nets(block, seed):
    net = small_resnet(block, seed)
    x = 3 * torch.randn(3, 1, 16, 16)
    report = lipschitz(net, 16, x)
    true = [norm(jacobian(net, image)) for image in x]
    assert report.bound >= max(true) == pytest.approx(report.lower_bound, rel=1e-3)
    for length in range(1, 9):  # every beginning of it
        beginning = nn.Sequential(*list(net.children())[:length])
        true = norm(jacobian(beginning, x[0]))
        assert lipschitz(beginning, 16).bound >= true * (1 - ROUNDING)


def test_both_ways_of_a_residual_block_see_its_input():
    net = small_resnet("BasicBlock")
    net.layer3[0].downsample[0] = nn.Conv2d(6, 4, 3, 2, 1)
    found = named(lipschitz(net, 32))
    for name in ("layer3.0.conv1", "layer3.0.downsample.0"):
        true = circular(net.get_submodule(name), (4, 4))
        assert found[name].raw == pytest.approx(true, rel=1e-9)


def test_a_residual_block_is_the_sum_of_its_ways():
    resnet = pytest.importorskip("torchvision.models.resnet", exc_type=ImportError)
    shortcut = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0))
    for resize, channels, constant in ((None, 1, 1 + 6), (shortcut, 2, 3 + 6)):
        block = resnet.BasicBlock(1, channels, 1, resize).eval()
        for conv in (block.conv1, block.conv2):
            conv.weight.data.zero_()[0, 0, 1, 1] = 2.0
        block.bn1.running_var.fill_(1 - block.bn1.eps)
        block.bn2.running_var.fill_(1 - block.bn2.eps)
        # What is small in the second channel counts with the 9 there, not with the 1.5.
        block.bn2.weight.data = torch.tensor([1.5, 9.0])[:channels]
        shortcut[0].weight.data[:] = torch.tensor([3.0, 0.0])[:, None, None, None]
        assert lipschitz(block, 5).bound == pytest.approx(constant, rel=1e-6)
        reached = norm(jacobian(block, torch.ones(1, 5, 5)))  # where the ReLUs are open
        assert reached == pytest.approx(constant, rel=1e-6)


def test_a_scale_before_a_residual_block_counts_on_both_ways():
    resnet = pytest.importorskip("torchvision.models.resnet", exc_type=ImportError)
    block = resnet.BasicBlock(2, 2).eval()
    for module in (block.conv1, block.conv2):
        module.weight.data.zero_()  # the identity is left
    conv, scale = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, eps=0)
    conv.weight.data[:] = torch.tensor([[2.0, 0.0], [0.0, 5.0]])[:, :, None, None]
    scale.weight.data = torch.tensor([-8.0, 1.0])
    for net, constant in (
        (nn.Sequential(conv, scale, block), 16),  # |diag(8, 1) W|, not 8 |W|
        (nn.Sequential(scale, block), 8),
    ):
        assert lipschitz(net.eval(), 4).bound == pytest.approx(constant)


def test_a_dense_layer_is_composed_as_pythagoras_has_it():
    layer = DenseLayer(1, 1, bottleneck=False).eval()
    layer.grow.norm.weight.data.fill_(3.0)
    layer.grow.norm.running_var.fill_(4 - layer.grow.norm.eps)
    layer.grow.conv.weight.data.zero_()[0, 0, 1, 1] = -8.0  # H = -12 relu: L = 12
    assert lipschitz(layer, 5).bound == pytest.approx(math.sqrt(145), rel=1e-6)
    # It is reached, where the ReLU is open.
    assert norm(jacobian(layer, torch.ones(1, 5, 5))) == pytest.approx(math.sqrt(145), rel=1e-6)


def test_the_bound_of_a_dense_net_is_the_product_by_hand():
    net = random_net(layers=(2, 1), growth=4, num_outputs=3)
    report = lipschitz(net, 8)
    own = {name: layer.bound for name, layer in named(report).items()}

    def dense(place):
        parts = (own[f"{place}.{part}.conv"] for part in ("bottleneck", "grow"))
        return math.hypot(1, math.prod(parts))

    blocks = dense("blocks.0.0") * dense("blocks.0.1") * dense("blocks.1.0")
    between = own["transitions.0.0.conv"] / 2
    right = own["stem"] * blocks * between / 4 * own["linear"]  # 16 pixels are averaged at the end
    assert report.bound == pytest.approx(right, rel=1e-12)
    assert all(own[name] == 1 for name in own if name.endswith("norm"))


def test_folding_in_closed_form():
    net = nn.Sequential(nn.BatchNorm2d(2, eps=0), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    net[0].weight.data = torch.tensor([-6.0, 1.0])
    net[0].running_var = torch.tensor([4.0, 9.0])
    net[2].weight.data = torch.tensor([[2.0, 0.0], [0.0, 5.0]])[:, :, None, None]
    net[3].running_var = torch.tensor([16.0, 25.0]) - net[3].eps
    norm_in, _, conv, norm_out = lipschitz(net, 4).layers
    assert (norm_in.raw, norm_in.folded) == (pytest.approx(3.0), 1.0)
    assert conv.raw == pytest.approx(5)
    assert conv.folded == pytest.approx(6)  # 2 * 6/2 against 5 * 1/3
    assert conv.scale_free == pytest.approx(3)  # 2 * 6 / 4 against 5 * 1 / 5
    assert norm_out.bound == pytest.approx(0.25)  # nothing takes it over


def test_a_norm_before_flattening_scales_every_pixel_of_its_channel():
    net = nn.Sequential(nn.BatchNorm2d(2, eps=0), nn.Flatten(), nn.Linear(8, 1, bias=False)).eval()
    net[0].running_var = torch.tensor([1.0, 1 / 16])
    net[2].weight.data = torch.tensor([[2.0, 2, 2, 2, 1, 1, 1, 1]])
    assert lipschitz(net, 2).bound == pytest.approx(math.sqrt(4 * 2**2 + 4 * 4**2))


def test_a_last_norm_counts_before_the_head():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, eps=0)).eval()
    net[1].running_var.fill_(0.25)
    model = fr.Classifier(net, fr.heads.Codeword(fr.Codebook.random(3, 4, "key")))
    report = lipschitz(model, 2)
    assert math.exp(report.log_bound_net) == pytest.approx(2)
    assert math.exp(report.log_bound_units) == pytest.approx(2)
    assert report.bound == pytest.approx(2 * norm(model.head.vectors.double()) * 12 / 4)


@pytest.mark.parametrize("factor", [7.0, 1 / 7])
def test_a_scale_that_the_next_norm_undoes_changes_raw_norms_only(factor):
    net = random_net(layers=(2, 1), growth=4, num_outputs=3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12
    scaled = copy.deepcopy(net)
    norms = (scaled.blocks[0][1].bottleneck.norm, scaled.transitions[0][0].norm)
    scaled.blocks[0][0].grow.conv.weight.data *= factor  # channels 8 to 12 of all that follow
    for module in norms:
        module.running_mean[8:12] *= factor
        module.running_var[8:12] *= factor**2
    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(net(x), scaled(x), rtol=1e-3, atol=1e-4)
    before, after = named(lipschitz(net, 8)), named(lipschitz(scaled, 8))
    name = "blocks.0.0.grow.conv"
    assert after[name].raw == pytest.approx(before[name].raw * factor, rel=1e-5)
    assert after[name].folded == pytest.approx(before[name].folded * factor, rel=1e-5)
    for each in (layer for layer in before if before[layer].scale_free is not None):
        assert after[each].scale_free == pytest.approx(before[each].scale_free, rel=1e-5)


def test_the_deviation_is_of_the_norm_that_reads_the_channels():
    net = random_net(layers=(2, 1), growth=4, num_outputs=3)
    layers = named(lipschitz(net, 8))
    grow, following = net.blocks[0][1].grow, net.transitions[0][0].norm
    std = (following.running_var[12:16].double() + following.eps).sqrt()
    weight = grow.conv.weight.double() / std[:, None, None, None]
    conv = copy.deepcopy(grow.conv).double()
    conv.weight.data = weight * grow.norm.weight.double().abs()[:, None, None]
    found = layers["blocks.0.1.grow.conv"].scale_free
    assert found == pytest.approx(circular(conv, (8, 8)), rel=1e-9)


def test_the_printed_chain_multiplies_raw_norms():
    net = random_net(layers=(2, 1), growth=4, num_outputs=3)
    total = 0.0
    for layer in lipschitz(net, 8).layers:
        if layer.kind in ("conv", "linear"):
            total += math.log(layer.raw)
            assert layer.log_chain == pytest.approx(total)
        else:
            assert layer.log_chain is None


def test_a_deep_net_is_bounded_in_logarithms():
    net = nn.Sequential(nn.Flatten(), *(nn.Linear(4, 4, bias=False) for _ in range(40)))
    for layer in net[1:]:
        layer.weight.data = 1e10 * torch.eye(4)
    report = lipschitz(net, 2)
    assert report.log_bound == pytest.approx(400 * math.log(10))
    assert report.bound == math.inf


@pytest.mark.parametrize(
    ("pool", "size", "constant"),
    [
        (nn.AvgPool2d(2), 6, 1 / 2),
        (nn.AvgPool2d((1, 3)), 6, 1 / math.sqrt(3)),
        (nn.AdaptiveAvgPool2d(1), 6, 1 / 6),
        (nn.MaxPool2d(2), 6, 1),
        (nn.MaxPool2d(3, 1, 1), 6, 3),
        (nn.MaxPool2d(3, 2, 1), 6, 2),
        (nn.MaxPool2d(2, 2, 0, 2), 7, 2),
    ],
)
def test_pooling_reaches_its_constant(pool, size, constant):
    assert lipschitz(pool, size).bound == pytest.approx(constant)
    # One bright pixel, where it lies in the most windows, reaches that of a maximum.
    found = [norm(jacobian(pool, image)) for image in bright(size)]
    assert max(found) == pytest.approx(constant)


def bright(size):
    for place in range(size * size):
        image = torch.rand(1, size, size)
        image.view(-1)[place] = 2
        yield image


class Unknown(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("net", "size", "error", "message"),
    [
        (nn.Sequential(nn.ReLU(), Unknown()), 4, TypeError, "1 must be one of .* got Unknown"),
        (Unknown(), 4, TypeError, "model must be one of .* got Unknown"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), 4, ValueError, "0 must have"),
        (nn.AdaptiveAvgPool2d(2), 4, ValueError, "average over all pixels"),
        (nn.AvgPool2d(3, 1), 4, ValueError, "windows that do not overlap"),
        (nn.MaxPool2d(2, ceil_mode=True), 4, ValueError, "ceil_mode"),
        (nn.Sequential(nn.Conv2d(1, 1, 5)), 4, ValueError, "large enough for 0"),
        (nn.Conv2d(1, 1, 3, padding_mode="reflect", padding=1), 4, ValueError, "got reflect"),
        (nn.Flatten(2), 4, ValueError, "flatten all but the images"),
        (nn.ReLU(), 0, ValueError, "input_size must be at least 1, got 0"),
    ],
)
def test_what_is_not_known_is_named(net, size, error, message):
    with pytest.raises(error, match=message):
        lipschitz(net, size)


def test_hooks_and_foreign_forwards_are_named():
    net = nn.Sequential(nn.ReLU(), nn.Tanh())
    net[1].register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match="1 must be a plain layer"):
        lipschitz(net, 4)


def test_bad_images_and_weights():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x = torch.rand(2, 1, 2, 2)
    with pytest.raises(ValueError, match="x must hold images of 3x3"):
        lipschitz(net, 3, x)
    with pytest.raises(ValueError, match="eps must come with images and labels"):
        lipschitz(net, 2, x, eps=[0.1])
    with pytest.raises(ValueError, match=r"net must return a tensor of shape \(2, d\)"):
        lipschitz(nn.Conv2d(1, 1, 1), 2, x)
    with pytest.raises(ValueError, match=r"eps must be finite and >= 0, got \[-1\]"):
        lipschitz(net, 2, x, torch.tensor([0, 1]), eps=[-1])
    with pytest.raises(TypeError, match="x must be a torch.Tensor, got ndarray"):
        lipschitz(net, 2, x.numpy())
    with pytest.raises(ValueError, match="y must lie in"):
        lipschitz(net, 2, x, torch.tensor([0, 2]))
    net[1].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="1 must have finite weights"):
        lipschitz(net, 2)


def test_wherever_the_model_is(device):
    model = fr.Classifier(
        random_net(layers=(1, 1), growth=4, num_outputs=12),
        fr.heads.Codeword(fr.Codebook.random(3, 12, "key")),
        (0.5, 0.25),
    )
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    here = lipschitz(model, 8, x, y, eps=[0.1])
    there = lipschitz(model.to(device), 8, x.to(device), y.to(device), eps=[0.1])
    assert there.log_bound == pytest.approx(here.log_bound)
    assert there.lower_bound == pytest.approx(here.lower_bound, rel=1e-3)
    left, right = (found.inequalities[0].adversarial_loss for found in (here, there))
    assert left == pytest.approx(right, rel=1e-2)


def test_no_images_tell_nothing():
    report = lipschitz(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), 2, torch.zeros(0, 1, 2, 2))
    assert report.lower_bound is None and len(report.images.radius) == 0


def test_the_model_is_left_as_it_was():
    net = random_net(layers=(1, 1), growth=4, num_outputs=3).train()
    before = copy.deepcopy(net.state_dict())
    x = torch.rand(3, 1, 8, 8)
    lipschitz(net, 8, x, torch.tensor([0, 1, 2]), eps=[0.1])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_data_frame_has_a_row_per_layer():
    report = lipschitz(random_net(layers=(1, 1), growth=4, num_outputs=3), (8, 8))
    frame = report.to_pandas()
    assert list(frame["name"]) == [layer.name for layer in report.layers]
    assert np.allclose(frame["raw"], [layer.raw for layer in report.layers])
    assert [layer.name for layer in report.convolutions] == list(frame.name[frame.kind == "conv"])
