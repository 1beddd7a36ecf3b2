"""The DenseNet engine on a GPU; without one, what its plan says of memory."""

import copy

import pytest
import torch
from nets import random_net

import fastrobust as fr
from fastrobust import engine
from fastrobust.attacks import PGD
from fastrobust.engine import folding
from fastrobust.ops.densenet_op import DenseNetGpuKernel
from fastrobust.ops.extension import kernels


def on_gpu(test):
    """Mark a test that needs a GPU."""
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    return pytest.mark.cuda(skip(test))


# Relative distance of outputs and gradients, by the norm, from autograd's in float64.
LIMITS = {"fp32": (1e-5, 1e-3), "tf32": (5e-3, 0.1), "bf16": (5e-2, 0.3)}
NETS = (
    {"depth": 22, "growth": 12},
    {"layers": [2, 3, 2], "growth": 7, "in_channels": 2, "compression": 0.7},
    {"layers": [2, 3], "growth": 5, "in_channels": 1, "bottleneck": False, "compression": 1},
)


def test_memory_of_an_image_and_bytes_that_it_moves():
    """BC 40-12 at 32x32: 4.2 million elements a gradient, of which those by x are float32."""
    shape = folding.shape_of(fr.models.densenet(40, 12))
    half, full = (DenseNetGpuKernel(shape, 32, 32, wish).plan for wish in ("bf16", "fp32"))
    assert half.state_size < 0.6 * full.state_size
    moved = half.forward_bytes + half.backward_bytes
    assert 2 * 4.2e6 < moved < 4 * 4.2e6 and moved < full.forward_bytes + full.backward_bytes
    with pytest.raises(ValueError, match="precision must be fp32"):
        DenseNetGpuKernel(shape, 32, 32, "fp8")
    with pytest.raises(ValueError, match="at least 4 x 4 for 3 blocks, got 3 x 32"):
        DenseNetGpuKernel(shape, 3, 32)


def test_packed_weights_hold_every_weight_twice():
    net = random_net(layers=[2, 2], growth=4, in_channels=1)
    kernel = DenseNetGpuKernel(folding.shape_of(net), 8, 8)
    with torch.no_grad():
        packed = kernel.pack(folding.fold(net)).view(torch.float32)
    stem = net.stem.weight.detach().flatten().sort().values
    for value in stem[:: len(stem) // 7]:
        assert (packed == value).sum() == 2  # one for each direction


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_graphs_need_a_gpu():
    with pytest.raises(ValueError, match="graph must have a model on a GPU"):
        engine.prepare(random_net(layers=[2], growth=4), graph=True)


@on_gpu
@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("wish", NETS, ids=str)
@pytest.mark.parametrize("count", [1, 3, 129])
def test_a_gpu_gives_what_autograd_gives_in_float64(precision, wish, count):
    net = random_net(**wish)
    x = torch.rand(count, wish.get("in_channels", 1), 13, 30)
    dz = torch.randn(count, 10)
    leaf = x.double().requires_grad_()
    z = copy.deepcopy(net).double()(leaf)
    exact = z.detach(), torch.autograd.grad(z, leaf, dz.double())[0]
    model = engine.prepare(net.cuda(), precision, backend="fused")
    leaf = x.cuda().requires_grad_()
    z = model.search(leaf)
    ours = z.detach(), torch.autograd.grad(z, leaf, dz.cuda())[0]
    for found, right, limit in zip(ours, exact, LIMITS[precision], strict=True):
        assert (found.cpu() - right).norm() <= limit * right.norm()


@on_gpu
@pytest.mark.parametrize("backend", ["fused", "autograd"])
def test_graphs_change_nothing(backend):
    net = random_net(depth=22, growth=12).cuda()
    x, y = torch.rand(16, 1, 32, 32, device="cuda"), torch.arange(16, device="cuda") % 10
    attack = PGD(eps=0.05, steps=5, keep="last")
    plain = attack.run(engine.prepare(net, backend=backend), x, y)
    replayed = attack.run(engine.prepare(net, backend=backend, graph=True), x, y)
    assert torch.equal(plain.adv, replayed.adv) and torch.equal(plain.queries, replayed.queries)


@on_gpu
def test_another_stream_gives_the_same_bits():
    net = random_net(depth=22, growth=12).cuda()
    model = engine.prepare(net, backend="fused")
    x = torch.rand(8, 1, 32, 32, device="cuda")
    here = model(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        there = model(x)
    stream.synchronize()
    assert torch.equal(here, there)
    assert hasattr(kernels, "densenet_cuda")
