"""The kernel on folded weights: its numbers, its packing, and bits that nothing around it changes.

The reference in float64 is checked against the module itself in test_fused.py.
"""

import numpy as np
import pytest
import torch
from nets import gap, random_net, same_signs
from torch import nn
from torch.nn import functional as F  # noqa: N812

import fastrobust as fr
from fastrobust.engine import folding
from fastrobust.ops.densenet_op import DenseNetKernel, _packed, _tiled, densenet_ref

bf16 = pytest.mark.skipif(not fr.build_info()["bf16"], reason="needs AVX512-BF16")


def case(size=(9, 7), count=5, seed=0, **arguments):
    net = random_net(seed, size, **{"layers": [2, 1], "growth": 5, "in_channels": 2, **arguments})
    with torch.no_grad():
        folded = folding.fold(net)
    x = torch.rand(count, net.arguments["in_channels"], *size)
    return folding.shape_of(net), folded, x, torch.randn(count, net.arguments["num_outputs"])


def run(shape, folded, x, dz, images=1, half=False, dirt=float("nan")):
    """Forward and backward in memory that holds `dirt`."""
    kernel = DenseNetKernel(shape, *x.shape[2:], images=images, half=half)
    weights = kernel.pack(folded)
    scratch = torch.full((kernel.scratch(len(x)),), dirt)
    state = torch.full((kernel.state(len(x)),), dirt)
    z = kernel.forward(weights, x, state, scratch)
    assert torch.equal(kernel.forward(weights, x, None, scratch.fill_(dirt)), z)
    return z, kernel.backward(weights, dz, x, state, scratch.fill_(dirt))


def by_reference(shape, folded, x, dz):
    leaf = x.double().requires_grad_()
    z = densenet_ref(folded, shape, leaf)
    return z.detach(), torch.autograd.grad(z, leaf, dz.double())[0]


@pytest.mark.parametrize("images", [1, 2, 8])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"bottleneck": False, "compression": 1.0},
        {"compression": 0.7, "layers": [1, 2, 1], "growth": 3, "init_channels": 13},
        {"layers": [3], "growth": 12, "num_outputs": 1},
        {"layers": [1, 1], "growth": 1, "init_channels": 1, "in_channels": 1, "num_outputs": 129},
    ],
    ids=["BC", "plain", "odd", "one block", "ones"],
)
def test_against_the_reference(arguments, images):
    sample = case(**arguments)
    ours, right = run(*sample, images=images), by_reference(*sample)
    assert gap(ours[0], right[0]) < 1e-5
    assert gap(ours[1], right[1]) < 1e-4
    assert same_signs(ours[1], right[1]) > 0.999


@pytest.mark.parametrize("size", [(4, 4), (2, 3), (5, 33), (31, 2), (16, 17)])
def test_every_size_down_to_one_pixel_at_the_end(size):
    sample = case(size, 3)
    ours, right = run(*sample, images=2), by_reference(*sample)
    assert gap(ours[0], right[0]) < 1e-5 and gap(ours[1], right[1]) < 1e-4


@pytest.mark.parametrize("half", [False, pytest.param(True, marks=bf16)])
def test_batch_group_threads_and_old_memory_change_no_bit(half):
    shape, folded, x, dz = case(count=9)
    z, grad = run(shape, folded, x, dz, half=half)
    threads = torch.get_num_threads()
    try:
        for count, images in ((1, 2), (2, 1), (2, 4), (3, 16)):
            torch.set_num_threads(count)
            other = run(shape, folded, x, dz, images, half, dirt=1e30)
            assert torch.equal(other[0], z) and torch.equal(other[1], grad)
    finally:
        torch.set_num_threads(threads)
    order = torch.randperm(9)
    moved = run(shape, folded, x[order], dz[order], 2, half)
    assert torch.equal(moved[0], z[order]) and torch.equal(moved[1], grad[order])
    for row in range(9):
        alone = run(shape, folded, x[row : row + 1], dz[row : row + 1], half=half)
        assert torch.equal(alone[0][0], z[row]) and torch.equal(alone[1][0], grad[row])


@pytest.mark.parametrize("images", [1, 4])
def test_no_images(images):
    shape, folded, x, dz = case(count=0)
    z, grad = run(shape, folded, x, dz, images)
    assert z.shape == (0, 10) and grad.shape == (0, 2, 9, 7)


@pytest.mark.parametrize("out", [1, 4, 11, 12, 13, 31])
def test_packing_by_its_definition(out):
    """[group of 12][input][tap][output of the group], the last group filled up to 4, 8 or 12."""
    weight = torch.randn(out, 3, 3, 3)
    w = np.zeros((out + 12, 3, 9), np.float32)
    w[:out] = weight.flatten(2).numpy()
    wanted = []
    for first in range(0, out, 12):
        group = min(12, -(-(out - first) // 4) * 4)
        wanted += [w[first + o, i, t] for i in range(3) for t in range(9) for o in range(group)]
    np.testing.assert_array_equal(_packed(weight, half=False).numpy(), wanted)


def halves(value):
    """Return a number's bits in bfloat16."""
    return int(torch.tensor(float(value)).bfloat16().view(torch.int16)) & 0xFFFF


@pytest.mark.parametrize(("out", "inputs"), [(1, 1), (12, 6), (13, 7)])
def test_pairs_by_their_definition(out, inputs):
    """The same in bfloat16, where two inputs share a place, the first in its lower half."""
    weight = torch.randn(out, inputs, 3, 3)
    w = np.zeros((out + 12, inputs + 1, 9), np.float32)
    w[:out, :inputs] = weight.flatten(2).numpy()
    wanted = []
    for first in range(0, out, 12):
        for i in range(0, inputs, 2):
            for t in range(9):
                for o in range(first, first + min(12, -(-(out - first) // 4) * 4)):
                    wanted.append(halves(w[o, i, t]) | halves(w[o, i + 1, t]) << 16)
    ours = _packed(weight, half=True).numpy().view(np.uint32)
    np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize(("out", "inputs", "side"), [(1, 1, 1), (12, 37, 1), (17, 12, 3)])
def test_tiles_by_their_definition(out, inputs, side):
    """[16 outputs][row of taps][16 pairs][output][pair], pairs as [column of taps][pair]."""
    weight = torch.randn(out, inputs, side, side)
    count = (inputs + 1) // 2
    tall, wide = -(-out // 16), -(-side * count // 16)
    w = np.zeros((16 * tall, 2 * count, side, side), np.float32)
    w[:out, :inputs] = weight.numpy()
    wanted = np.zeros((tall, side, wide, 16, 16), np.uint32)
    for o in range(out):
        for y in range(side):
            for k in range(side * count):
                x, i = divmod(k, count)
                both = halves(w[o, 2 * i, y, x]) | halves(w[o, 2 * i + 1, y, x]) << 16
                wanted[o // 16, y, k // 16, o % 16, k % 16] = both
    np.testing.assert_array_equal(_tiled(weight).numpy().view(np.uint32), wanted.ravel())


def rounded_forward(folded, shape, x):
    """The bf16 engine written out: operands of the layers rounded, everything else in float64."""
    parts = iter([p.double() for p in folded])

    def cut(t):
        return t.bfloat16().double()

    def normalised(x):
        scale, shift = next(parts), next(parts)
        return F.relu(x * scale[:, None, None] + shift[:, None, None])

    x = F.conv2d(x.double(), next(parts), padding=1)
    for block, count in enumerate(shape.layers):
        for _ in range(count):
            hidden = cut(normalised(x))
            if shape.bottleneck:
                weight, bias = cut(next(parts)), next(parts)
                hidden = cut(F.relu(F.conv2d(hidden, weight, bias)))
            x = torch.cat([x, F.conv2d(hidden, cut(next(parts)), padding=1)], 1)
        x = normalised(x)
        if block + 1 < len(shape.layers):
            x = F.conv2d(F.avg_pool2d(x, 2), next(parts))
    return F.linear(x.mean((2, 3)), next(parts), next(parts))


@bf16
@pytest.mark.parametrize("bottleneck", [True, False])
@pytest.mark.parametrize("growth", [3, 5, 12])
def test_bf16_rounds_the_operands_of_the_layers_and_nothing_else(growth, bottleneck):
    shape, folded, x, dz = case(growth=growth, bottleneck=bottleneck, init_channels=7)
    z, grad = run(shape, folded, x, dz, images=2, half=True)
    exact, slope = by_reference(shape, folded, x, dz)
    # A sum in another order can round an operand the other way: 2^-9 of one of many.
    assert gap(z, rounded_forward(folded, shape, x)) < 5e-4 < gap(z, exact)
    assert 1e-3 < gap(grad, slope) < 0.2


def test_what_does_not_fit_is_refused():
    shape, folded, x, dz = case()
    kernel = DenseNetKernel(shape, 9, 7)
    weights, scratch = kernel.pack(folded), torch.empty(kernel.scratch(5))
    state = torch.empty(kernel.state(5))
    with pytest.raises(ValueError, match="images must be at least 2 x 2 for 2 blocks, got 1 x 7"):
        DenseNetKernel(shape, 1, 7)
    for error, words, wrong in (
        (ValueError, "weights", (weights[:-16], x, state, scratch)),
        (ValueError, "images", (weights, x[:, :1], state, scratch)),
        (ValueError, "images", (weights, x.mT.contiguous(), state, scratch)),
        (TypeError, "images must be float32", (weights, x.double(), state, scratch)),
        (ValueError, "images", (weights, x.mT.contiguous().mT, state, scratch)),
        (ValueError, "state", (weights, x, state[1:], scratch)),
        (ValueError, "scratch", (weights, x, None, scratch[: kernel.scratch(1) - 1])),
    ):
        with pytest.raises(error, match=words):
            kernel.forward(*wrong)
    with pytest.raises(ValueError, match="outputs"):
        kernel.backward(weights, dz[:, :9], x, state, scratch)


def test_the_reference_is_differentiable_in_its_images():
    shape, folded, x, _ = case((4, 4), 1, layers=[1, 1], growth=2)
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: densenet_ref(folded, shape, x), (x,))
    assert isinstance(densenet_ref(folded, shape, x.float()), torch.Tensor)
    assert not any(isinstance(part, nn.Parameter) for part in folded)
