"""Whatever changes in a network between two uses is noticed, also behind autograd's back."""

import gc
import weakref

import pytest
import torch
from nets import random_net
from torch import nn

import fastrobust as fr
from fastrobust.engine.watch import Watch


def through_numpy(net):
    net.linear.weight.detach().numpy()[0, 0] += 1


def same_place_transposed(net):
    """The same memory, read in another order."""
    square = net.blocks[0][0].grow.conv.weight
    square.data = square.data.transpose(2, 3)


def half_a_bit(net):
    bits = net.linear.bias.detach().view(torch.int32)
    bits[0] ^= 1


WEIGHTS = {
    "through .data": lambda net: net.stem.weight.data.mul_(2),
    "through NumPy": through_numpy,
    "the last bit": half_a_bit,
    "a statistic": lambda net: net.norm.running_mean.add_(1),
    "a counter": lambda net: net.norm.num_batches_tracked.add_(1),
    "NaN": lambda net: net.linear.bias.data.fill_(torch.nan),
}
STRUCTURE = {
    "other memory": lambda net: setattr(net.stem.weight, "data", net.stem.weight.data.clone()),
    "transposed in place": same_place_transposed,
    "an eps": lambda net: setattr(net.norm, "eps", 1e-3),
    "a stride": lambda net: setattr(net.stem, "stride", (2, 2)),
    "a module": lambda net: setattr(net, "linear", nn.Linear(9, 10)),
    "a parameter": lambda net: setattr(net.linear, "bias", nn.Parameter(torch.zeros(10))),
    "a hook": lambda net: net.stem.register_forward_hook(lambda *_: None),
    "a forward": lambda net: setattr(net.stem, "forward", net.stem.forward),
    "a parametrization": lambda net: nn.utils.parametrizations.weight_norm(net.linear),
    "a class": lambda net: setattr(net.linear, "__class__", type("Mine", (nn.Linear,), {})),
}


def watched():
    net = random_net(layers=[2, 1]).eval()
    return net, Watch(net)


def test_nothing_has_changed_at_first():
    net, watch = watched()
    assert watch.same_structure() and watch.same_weights()
    net(torch.rand(1, 1, 8, 8))
    assert watch.same_structure() and watch.same_weights()


@pytest.mark.parametrize("change", WEIGHTS.values(), ids=WEIGHTS)
def test_a_changed_weight_is_noticed(change):
    net, watch = watched()
    change(net)
    assert watch.same_structure() and not watch.same_weights()


@pytest.mark.parametrize("change", STRUCTURE.values(), ids=STRUCTURE)
def test_a_changed_structure_is_noticed(change):
    net, watch = watched()
    change(net)
    assert not watch.same_structure()


def test_a_watch_keeps_no_network_alive():
    net, watch = watched()
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None and not watch.same_structure()


def test_a_model_that_hands_out_one_number_for_many_pixels():
    """Its gradient is a view of few numbers, which nobody may write to."""
    net = nn.Linear(3, 4)
    x, y = torch.rand(5, 3, 4, 4), torch.arange(5) % 4
    adv = fr.attacks.FGSM(eps=0.1)(lambda images: net(images.sum((2, 3))), x, y)
    weight = net.weight.detach()
    slope = (net(x.sum((2, 3))).softmax(1).detach() - nn.functional.one_hot(y, 4)) @ weight
    expected = (x + 0.1 * slope.sign()[:, :, None, None]).clamp(0, 1)
    torch.testing.assert_close(adv, expected)
