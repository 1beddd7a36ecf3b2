"""The sign attacks against their numpy rewrite in float64, for every number of steps."""

import numpy as np
import numpy_attacks
import pytest
import torch

from fastrobust import attacks
from fastrobust.engine import gradients

HEADS = ("ce", "mse", "codeword", "linear")
LOSSES = ("ce", "train", "margin", "dlr")
# float64 throughout: two ways to add up a dot product differ by a few ulp.
EXACT = {"rtol": 0, "atol": 1e-12}


def images(count=9, seed=1):
    """Images with pixels on the box's edges too: (numpy rows, torch images)."""
    rows = np.random.default_rng(seed).uniform(-0.2, 1.2, (count, 12)).clip(0, 1)
    return rows, torch.from_numpy(rows).view(-1, *numpy_attacks.SHAPE)


def labels(net, rows, seed=2):
    """Labels of which most, and targets of which few, are the clean decision."""
    rng = np.random.default_rng(seed)
    decided = net.judge(rows, np.zeros(len(rows), int), "ce")[2]
    return np.where(rng.random(len(rows)) < 0.8, decided, (decided + 1) % numpy_attacks.CLASSES)


@pytest.fixture
def iterates(monkeypatch):
    """Return the images (N, n) of every gradient that an attack asks for, as it asks."""
    seen, ask = [], gradients.Oracle.gradient

    def spy(oracle, x, *rest, **named):
        seen.append(x.flatten(1).numpy().copy())
        return ask(oracle, x, *rest, **named)

    monkeypatch.setattr(gradients.Oracle, "gradient", spy)
    return seen


def run(attack, net, x, y, targeted, **options):
    named = {"target": torch.from_numpy(y)} if targeted else {"y": torch.from_numpy(y)}
    return attack.run(net.torch(), x, **named, **options)


def compare(result, expected, tolerance=EXACT):
    np.testing.assert_allclose(result.adv.flatten(1).numpy(), expected, **tolerance)


FAMILY = {
    "fgsm": (numpy_attacks.fgsm, lambda steps, **f: attacks.FGSM(**f)),
    "bim": (numpy_attacks.bim, attacks.BIM),
    "mim": (numpy_attacks.mim, attacks.MIM),
    "pgd": (numpy_attacks.madry, lambda **f: attacks.PGD(random_start=False, keep="last", **f)),
    "pgd_l2": (
        numpy_attacks.pgd_l2,
        lambda **f: attacks.PGD(random_start=False, keep="last", norm="l2", **f),
    ),
}


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", FAMILY)
def test_every_step_of_every_attack(name, head, loss, targeted, iterates):
    net, (rows, x) = numpy_attacks.Net.make(head), images()
    y = labels(net, rows)
    rewrite, attack = FAMILY[name]
    for clip, eps in (((0, 1), 0.12), (None, 0.3)):
        trace = rewrite(net, rows, y, loss, eps, clip, targeted, steps=6)
        made = attack(eps=eps, loss=loss, clip=clip, steps=len(trace) - 1)
        # DLR of the third class is constant but for its 1e-12: its gradient is rounding noise,
        # which a step along the gradient blows up.
        tolerance = {"rtol": 0, "atol": 1e-5} if (name, loss) == ("pgd_l2", "dlr") else EXACT
        compare(run(made, net, x, y, targeted), trace[-1], tolerance)
        np.testing.assert_allclose(iterates, trace[:-1], **tolerance)
        iterates.clear()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("targeted", [False, True])
def test_madry_starts_at_random_outside_the_box(head, targeted):
    net, (rows, x) = numpy_attacks.Net.make(head), images()
    y, index = labels(net, rows), torch.arange(len(x)) * 7 + 2**33
    start = numpy_attacks.uniform_start(12, 5, index.tolist(), 0)
    trace = numpy_attacks.madry(net, rows, y, "ce", 0.1, (0, 1), targeted, start=start)
    assert (trace[0] < 0).any() and (trace[0] > 1).any()
    compare(run(attacks.PGD.madry(0.1), net, x, y, targeted, seed=5, index=index), trace[-1])


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_mim_divides_the_codeword_by_its_sum(decay):
    net, (rows, x) = numpy_attacks.Net.make("codeword"), images()
    y = labels(net, rows)
    options = {"steps": 5, "decay": decay, "label_sum_norm": True}
    trace = numpy_attacks.mim(net, rows, y, "train", 0.3, (0, 1), False, **options)
    plain = numpy_attacks.mim(net, rows, y, "train", 0.3, (0, 1), False, steps=5, decay=decay)
    assert np.abs(trace[-1] - plain[-1]).max() > 0.1
    compare(run(attacks.MIM(eps=0.3, loss="train", **options), net, x, y, False), trace[-1])
    # One-hot labels sum to 1: nothing to divide.
    for head, loss in (("mse", "train"), ("codeword", "ce")):
        one = numpy_attacks.Net.make(head)
        trace = numpy_attacks.mim(one, rows, y, loss, 0.3, (0, 1), False, steps=5, decay=decay)
        compare(run(attacks.MIM(eps=0.3, loss=loss, **options), one, x, y, False), trace[-1])


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("restarts", "keep"), [(1, "best"), (3, "best"), (3, "last")])
@pytest.mark.parametrize("loss", LOSSES)
def test_pgd_keeps_the_first_success_or_the_highest_loss(loss, restarts, keep, targeted):
    net, (rows, x) = numpy_attacks.Net.make("codeword"), images(40)
    y = labels(net, rows)
    fields = {"step_size": 0.02, "steps": 7, "restarts": restarts, "keep": keep}
    traces = [
        numpy_attacks.madry(
            net, rows, y, loss, 0.05, (0, 1), targeted, step_size=0.02, steps=7,
            start=numpy_attacks.uniform_start(12, 3, range(len(rows)), restart),
        )
        for restart in range(restarts)
    ]  # fmt: skip
    if keep == "last":
        traces = [[trace[0], trace[-1]] for trace in traces]
    expected, won = numpy_attacks.best(net, traces, y, loss, targeted)
    assert 0 < won.sum() < len(won)
    result = run(attacks.PGD(eps=0.05, loss=loss, **fields), net, x, y, targeted, seed=3)
    compare(result, expected)
    assert result.success.tolist() == won.tolist() == result.claimed.tolist()


@pytest.mark.parametrize("keep", ["last", "best"])
def test_queries_count_forwards_and_backwards_until_the_row_is_done(keep):
    net, (rows, x) = numpy_attacks.Net.make("ce"), images(40)
    y = labels(net, rows)
    attack = attacks.BIM(eps=0.06, step_size=0.02, steps=5, keep=keep)
    trace = numpy_attacks.bim(net, rows, y, "ce", 0.06, (0, 1), False, step_size=0.02, steps=5)
    result = run(attack, net, x, y, False)
    if keep == "last":
        assert result.queries.tolist() == [5 * 2 + 1] * len(x)
        return
    for row, queries in enumerate(result.queries.tolist()):
        hits = [net.judge(a, y, "ce")[2][row] != y[row] for a in trace[1:]]
        # Iterate k < 5 is seen by update k + 1; the fifth by one forward; then the verdict.
        seen = hits.index(True) + 1 if any(hits) else 5
        assert queries == (2 * (seen + 1) if seen < 5 else 2 * 5 + 1) + 1
    assert result.queries.unique().numel() > 2
