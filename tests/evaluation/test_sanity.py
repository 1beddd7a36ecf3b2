"""The checks: planted faults are flagged, each by the check made for it, and sound models pass."""

from functools import cache

import nets
import planted
import pytest
import torch
from torch import nn

import fastrobust as fr
from fastrobust.evaluation.sanity import checks, comparisons, result
from fastrobust.evaluation.sanity import model as itself
from fastrobust.evaluation.sanity.binarization import binarized
from fastrobust.evaluation.sanity.case import CHECK_SIZES, Case, CheckSize, Probe
from fastrobust.evaluation.sanity.checks import inspect
from fastrobust.evaluation.threat_model import ThreatModel
from fastrobust.utils.stats import sign_test

SMALL = CheckSize(images=48, steps=20, restarts=3, queries=200, draws=30)


def images(count=120):
    return nets.digits().x_test[:count], nets.digits().y_test[:count]


@cache
def adversarially_trained():
    """A small network trained on PGD's images: Madry et al., arXiv 1706.06083."""
    data = nets.digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(),
            nn.Linear(64, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        attack = fr.attacks.PGD(eps=0.1, step_size=0.05, steps=4, keep="last")
        for step in range(120):
            rows = torch.randint(len(data.x_train), (64,))
            x, y = data.x_train[rows], data.y_train[rows]
            x = attack(net, x, y, seed=step)
            loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.requires_grad_(False)


def linf(eps):
    return ThreatModel("linf", eps)


def probe(model, eps=0.1, norm="linf", **fields):
    return Probe(Case(model, *images(), ThreatModel(norm, eps), **fields), SMALL)


PLANTED = {
    "rounded": (
        planted.Rounded,
        {itself.gradients, comparisons.unbounded_eps, comparisons.queries},
    ),
    "saturated": (planted.Saturated, {itself.gradients}),
    "noisy": (planted.Noisy, {itself.deterministic, itself.finite_differences}),
    "dropout": (planted.DropoutLeftOn, {itself.deterministic, itself.finite_differences}),
    "unsteady": (planted.Unsteady, {itself.gradients, itself.finite_differences}),
    "wrong slope": (planted.WrongSlope, {itself.finite_differences, comparisons.queries}),
}


@pytest.mark.filterwarnings("ignore:the model gave NaN")
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_fails_its_checks(fault):
    kind, made_for_it = PLANTED[fault]
    looked_at = probe(kind(nets.trained()))
    for check in made_for_it:
        found = check(looked_at)
        assert found.verdict == "fail", found
        assert found.advice and found.number == pytest.approx(found.number, nan_ok=True)


def test_a_clamped_decoder_fails_for_its_dead_classes():
    looked_at = probe(planted.LogClamp(nets.trained("R:TANH:MSE")))
    found = itself.dead_classes(looked_at)
    assert found.verdict == "fail" and found.number > 0.25 and len(found.images) == 32
    assert itself.dead_classes(probe(nets.trained("R:TANH:MSE"))).number == 0


def test_probabilities_are_warned_of():
    assert itself.probabilities(probe(planted.Probabilities(nets.trained()))).verdict == "warn"
    assert itself.probabilities(probe(nets.trained())).verdict == "pass"


@pytest.mark.parametrize("name", ["ce", "adversarially trained"])
def test_sound_evaluations_fail_no_check(name):
    model = nets.trained() if name == "ce" else adversarially_trained()
    x, y = images()
    found = inspect(Case(model, x, y, linf(0.1), adv=x, broken=model(x).argmax(1) != y), "quick")
    assert not [check for check in found if check.verdict == "fail"]
    assert [check.name for check in found if check.verdict == "pass"]
    assert len({check.name for check in found}) == len(checks.CHECKS)
    by_name = {check.name: check for check in found}
    assert by_name["finite differences"].number > 0.98
    assert by_name["gradients present"].number == 0


def test_one_step_that_beats_many_is_flagged(monkeypatch):
    """An attack whose later steps go back to the image."""
    looked_at = probe(nets.trained())
    assert comparisons.one_step(looked_at).verdict == "pass"
    real = Probe.broken

    def broken(self, attack, *rest, **options):
        if isinstance(attack, fr.attacks.PGD):
            return torch.zeros(len(self), dtype=torch.bool)
        return real(self, attack, *rest, **options)

    monkeypatch.setattr(Probe, "broken", broken)
    found = comparisons.one_step(probe(nets.trained()))
    one_step = looked_at.one_step
    assert found.verdict == "fail" and found.number == one_step.sum()
    assert list(found.images) == looked_at.indices[one_step].tolist()


def test_a_budget_that_helps_the_defender_is_flagged(monkeypatch):
    real = Probe.broken

    def broken(self, attack, *rest, **options):
        return real(self, attack, *rest, **options) & (attack.eps < 0.15)

    assert comparisons.larger_eps(probe(nets.trained())).verdict == "pass"
    monkeypatch.setattr(Probe, "broken", broken)
    assert comparisons.larger_eps(probe(nets.trained())).verdict == "fail"


def test_transferred_images_are_compared_with_gradients():
    x, _ = images()
    assert comparisons.transfer(probe(nets.trained())).verdict == "skipped"
    plain = comparisons.transfer(probe(nets.trained(), transferred=x))
    assert plain.verdict == "pass" and plain.number == 0
    found = fr.attacks.PGD(eps=0.1)(nets.trained(), *images())
    masked = comparisons.transfer(probe(planted.Rounded(nets.trained()), transferred=found))
    assert masked.verdict == "fail" and masked.number > 10
    # Images outside of the ball are moved into it first.
    far = comparisons.transfer(probe(nets.trained(), transferred=1 - x))
    assert far.number == comparisons.transfer(probe(nets.trained(), transferred=1 - x)).number


def test_noise_is_compared_with_gradients():
    assert comparisons.noise(probe(nets.trained())).number == 0
    masked = comparisons.noise(probe(planted.Rounded(nets.trained()), eps=0.3))
    assert masked.verdict == "fail" and masked.number >= 3


def test_what_leaves_ball_or_box_is_flagged():
    x, y = images()
    fine = (x + 0.1).clamp(0, 1)
    for adv, count in ((fine, 0), (x + 0.1, None), ((x + 0.2).clamp(0, 1), len(x))):
        found = result.inside(probe(nets.trained(), adv=adv))
        assert (found.number == count) if count is not None else found.number > 10
        assert found.verdict == ("pass" if count == 0 else "fail")
    l2 = result.inside(probe(nets.trained(), adv=fine, norm="l2"))
    assert l2.verdict == "fail"
    assert result.inside(probe(nets.trained())).verdict == "skipped"


def test_images_that_rounding_to_8_bits_mends_are_flagged():
    """A model that looks for what 8 bits cannot hold."""
    x, y = images()
    x = (x * 255).round() / 255

    def fragile(x):
        off = ((x * 255 - (x * 255).round()).abs() > 0.1).flatten(1).any(1)
        scores = nn.functional.one_hot(y[: len(x)], 10).float()
        return torch.where(off[:, None], scores.roll(1, 1), scores) + 0 * x.flatten(1)[:, :1]

    adv = (x + 0.3 / 255).clamp(0, 1)
    case = Case(fragile, x, y, linf(0.1), adv=adv, broken=torch.ones(len(x), dtype=torch.bool))
    found = result.eight_bits(Probe(case, SMALL))
    assert found.verdict == "warn" and found.number > 0.9
    # So far out that no break hangs on half a level, whichever machine trained the network.
    big = Case(nets.trained(), x, y, linf(0.2))
    adv = fr.attacks.PGD(eps=0.2, keep="last", loss="margin")(big.model, x, y)
    broken = big.model.predict(adv) != y
    case = Case(nets.trained(), x, y, linf(0.2), adv=adv, broken=broken)
    assert result.eight_bits(Probe(case, SMALL)).verdict == "pass"


def test_decisions_that_hang_on_the_batch_are_flagged():
    class PerBatch(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nets.trained()

        def forward(self, x):
            return self.net(x) - 1e3 * (len(x) == 1) * torch.eye(10)[0]

    x, y = images()
    looked_at = probe(PerBatch(), adv=x)
    assert result.again(looked_at).verdict in ("warn", "fail")
    assert result.again(probe(nets.trained(), adv=x)).verdict == "pass"


def test_a_loss_about_other_scores_is_flagged():
    """A head whose decision is not the argmax of the scores that attacks see."""
    model = nets.trained()

    class Other(type(model.head)):
        def decide(self, z):
            return (super().decide(z) + 1) % 10

    head = Other("ce")
    twin = fr.Classifier(model.net, head)
    found = itself.agreement(probe(twin))
    assert found.verdict == "fail" and found.number > 40
    assert itself.agreement(probe(model)).number == 0


def test_surrogates_are_for_tanh_heads():
    assert comparisons.surrogates(probe(nets.trained())).verdict == "skipped"
    assert itself.saturation(probe(nets.trained())).verdict == "skipped"
    tanh = fr.Classifier(nets.trained("R:TANH:MSE").net, nets.trained("R:TANH:MSE").head)
    assert comparisons.surrogates(probe(tanh)).verdict in ("pass", "warn")
    # Units that saturate: the same decisions, and no way through the tanh.
    with torch.no_grad():
        hard = nets.Scaled(tanh.net, 30.0)
    found = comparisons.surrogates(probe(fr.Classifier(hard, tanh.head)))
    assert itself.saturation(probe(fr.Classifier(hard, tanh.head))).verdict == "warn"
    assert found.number >= comparisons.surrogates(probe(tanh)).number


def test_the_binarization_test_finds_what_is_there():
    effort = CheckSize(images=128, steps=20, restarts=1, queries=10, draws=1)
    sound = binarized(Probe(Case(nets.trained(), *images(), linf(0.1)), effort))
    assert sound.verdict == "pass" and sound.number > 0.8
    masked = binarized(Probe(Case(planted.Rounded(nets.trained()), *images(), linf(0.3)), effort))
    assert masked.verdict == "fail"
    assert binarized(probe(nets.trained())).verdict == "skipped"


def test_the_sign_test_is_a_binomial_tail():
    assert sign_test(0, 0) == 1
    assert sign_test(5, 0) == 1 / 32
    assert sign_test(3, 1) == pytest.approx(5 / 16)
    assert sign_test(1, 3) == pytest.approx(15 / 16)


def test_the_model_is_left_as_it_was():
    model = nets.trained()
    model.train()
    state, flags = torch.get_rng_state(), [(p.grad, p.requires_grad) for p in model.parameters()]
    try:
        inspect(Case(model, *images(20), linf(0.1)), "quick")
        assert all(module.training for module in model.modules())
        assert [(p.grad, p.requires_grad) for p in model.parameters()] == flags
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        model.eval()


def test_efforts_go_by_the_budget():
    with pytest.raises(ValueError, match="budget must be one of quick, standard, thorough"):
        inspect(Case(nets.trained(), *images(5), linf(0.1)), "huge")
    sizes = [CHECK_SIZES[budget].images for budget in ("quick", "standard", "thorough")]
    assert sizes == sorted(sizes)
