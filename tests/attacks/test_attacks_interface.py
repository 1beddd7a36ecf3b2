"""Fields, reprs, labels, targets, results, and what is refused in which words."""

from dataclasses import FrozenInstanceError, fields, replace

import attack_table
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fastrobust as fr
from fastrobust.attacks import BIM, FAB, FGSM, MIM, PGD, Square, from_repr, random_targets
from fastrobust.attacks.state import State
from fastrobust.ops.philox import philox4x32

KINDS = attack_table.EASY_EPS


def model(classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


def images(count=5):
    return torch.rand(count, 1, 3, 4), torch.arange(count) % 4


def own_loss(scores, y):
    return nn.functional.cross_entropy(scores, y, reduction="none")


# Fields


def test_defaults_are_the_papers():
    shared = {"eps": 0.1, "loss": "ce", "clip": (0, 1)}
    assert vars(FGSM(0.1)) == shared
    assert vars(BIM(0.1)) == shared | {"step_size": 0.05, "steps": 10, "keep": "last"}
    assert vars(MIM(0.1)) == shared | {
        "step_size": 0.06, "steps": 10, "decay": 1.0, "label_sum_norm": False, "keep": "last",
    }  # fmt: skip
    assert vars(PGD(0.1)) == shared | {
        "step_size": 0.01, "steps": 40, "random_start": True, "restarts": 1, "targets": 0,
        "norm": "linf", "keep": "best",
    }  # fmt: skip
    assert PGD.madry(0.1) == PGD(eps=0.1, keep="last")
    assert vars(Square(0.1)) == shared | {
        "norm": "linf", "loss": "margin", "queries": 5000, "p_init": 0.8, "restarts": 1,
    }  # fmt: skip
    assert vars(FAB()) == {
        "norm": "linf", "steps": 100, "restarts": 1, "targets": 9, "eps": 0.3, "alpha_max": 0.1,
        "eta": 1.05, "beta": 0.9, "clip": (0, 1),
    }  # fmt: skip


def test_repr_leaves_out_defaults_and_evaluates_back():
    for attack, text in (
        (FGSM(0.1), "FGSM(eps=0.1)"),
        (PGD.madry(8 / 255), f"PGD(eps={8 / 255!r}, keep='last')"),
        (BIM(np.float32(0.5), step_size=torch.tensor(0.25), steps=np.int64(3)),
         "BIM(eps=0.5, step_size=0.25, steps=3)"),
        (MIM(0, clip=[-1, 2], loss="train", label_sum_norm=True),
         "MIM(eps=0.0, loss='train', clip=(-1.0, 2.0), label_sum_norm=True)"),
        (FGSM(1, clip=None), "FGSM(eps=1.0, clip=None)"),
        (FGSM(1, loss=own_loss), "FGSM(eps=1.0, loss=own_loss)"),
    ):  # fmt: skip
        assert repr(attack) == text
        assert eval(text) == attack
        assert attack.loss is own_loss or attack == from_repr(text)
        assert hash(eval(text)) == hash(attack)
    with pytest.raises(FrozenInstanceError):
        FGSM(0.1).eps = 0.2


@given(
    eps=st.floats(0, 1e6), step_size=st.floats(0, 10), steps=st.integers(1, 10**6),
    clip=st.none() | st.tuples(st.floats(-5, -1), st.floats(0, 5)),
    loss=st.sampled_from(["ce", "train", "margin", "dlr"]), random_start=st.booleans(),
    norm=st.sampled_from(["l2", "linf"]), keep=st.sampled_from(["best", "last"]),
)  # fmt: skip
def test_every_repr_reads_back(**values):
    attack = PGD(**values)
    assert from_repr(repr(attack)) == attack and repr(from_repr(repr(attack))) == repr(attack)


def test_from_repr_takes_quotients_and_nothing_that_runs():
    assert from_repr("PGD(8/255, step_size=2/255)") == PGD(8 / 255, step_size=2 / 255)
    for text in (
        "__import__('os').getcwd()", "PGD(eps=__import__('os'))", "PGD",
        "PGD(eps=(1/0))", "PGD(", "Nothing(eps=1)", "SignAttack()", "PGD(eps=0.1); 1",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="an attack must be"):
            from_repr(text)
    with pytest.raises(TypeError, match="stride"):
        from_repr("PGD(eps=0.1, stride=2)")


@pytest.mark.parametrize(
    ("kind", "values", "error", "words"),
    [
        (FGSM, {"eps": -0.1}, ValueError, "eps must be >= 0 and finite, got -0.1"),
        (FGSM, {"eps": float("nan")}, ValueError, "eps must be >= 0 and finite, got nan"),
        (FGSM, {"eps": torch.ones(3)}, TypeError, "eps must be one number"),
        (FGSM, {"eps": "0.1x"}, TypeError, "eps must be one number"),
        (
            FGSM,
            {"eps": 1, "loss": "mse"},
            ValueError,
            "loss must be one of 'ce', 'train', 'margin'",
        ),
        (FGSM, {"eps": 1, "clip": (1, 0)}, ValueError, "clip must be .lo, hi. with lo < hi"),
        (FGSM, {"eps": 1, "clip": 1}, TypeError, "clip must be"),
        (BIM, {"eps": 1, "steps": 0}, ValueError, "steps must be >= 1, got 0"),
        (BIM, {"eps": 1, "steps": 1.5}, TypeError, "steps must be an integer, got 1.5"),
        (BIM, {"eps": 1, "keep": "first"}, ValueError, "keep must be one of 'last', 'best'"),
        (MIM, {"eps": 1, "decay": -1}, ValueError, "decay must be >= 0"),
        (PGD, {"eps": 1, "norm": "l1"}, ValueError, "norm must be one of 'linf', 'l2'"),
        (PGD, {"eps": 1, "random_start": 1}, TypeError, "random_start must be True or False"),
        (PGD, {"eps": 1, "restarts": 2, "random_start": False}, ValueError, "restarts must be 1"),
    ],
)
def test_fields_are_checked(kind, values, error, words):
    with pytest.raises(error, match=words):
        kind(**values)


# Labels and targets


def test_without_labels_the_models_decision_is_left():
    net, (x, _) = model(), images()
    decided = net(x).argmax(1)
    for attack in (FGSM(0.3), PGD(0.3)):
        guessed, given_ = attack.run(net, x), attack.run(net, x, decided)
        assert torch.equal(guessed.adv, given_.adv)
        assert torch.equal(guessed.success, guessed.decision != decided)
        assert torch.equal(guessed.queries, given_.queries + 1)


def test_success_is_against_the_label_or_for_the_target():
    net, (x, _) = model(), images(50)
    y = torch.randint(0, 4, (50,))  # most of them wrong from the start
    away = FGSM(0.05).run(net, x, y)
    assert torch.equal(away.success, net(away.adv).argmax(1) != y)
    assert torch.equal(away.decision, net(away.adv).argmax(1))
    towards = FGSM(0.05).run(net, x, target=y)
    assert torch.equal(towards.success, net(towards.adv).argmax(1) == y)
    assert (away.success != towards.success).any()
    both = FGSM(0.05).run(net, x, y, target=(y + 1) % 4)
    assert torch.equal(both.adv, FGSM(0.05)(net, x, target=(y + 1) % 4))


def test_a_success_is_kept_although_its_loss_is_lower():
    def net(x):  # class 1 from 0.5 on
        return torch.cat([0 * x, x - 0.5], 1)

    def peak_at_049(scores, y):
        return -((scores[:, 1] + 0.01) ** 2)

    x, y = torch.tensor([[0.35]]).double(), torch.tensor([0])
    attack = BIM(eps=0.3, step_size=0.1, steps=5, keep="best", loss=peak_at_049, clip=None)
    result = attack.run(net, x, y)  # by way of 0.45, which is nearer to the peak
    torch.testing.assert_close(result.adv, torch.tensor([[0.55]]).double())
    assert result.success.all() and result.claimed.all()


def test_the_verdict_is_on_the_image_as_it_is_returned():
    def net(x):  # class 1 from 0.50005 on
        return torch.cat([0 * x, 1e6 * (x - 0.50005)], 1)

    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    assert FGSM(eps=1e-4).run(net, x, y).success.all()
    rounded = FGSM(eps=1e-4).run(lambda x: net(x.float()), x.half(), y)
    assert torch.equal(rounded.adv, x.half()) and not rounded.success.any()


def test_a_new_attack_is_told_what_it_lacks():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Shown(FGSM):
        pass

    @dataclass(frozen=True, repr=False)
    class Unchecked(FGSM):
        share: float = 0.5

    with pytest.raises(TypeError, match="Shown must be a dataclass with repr=False"):
        Shown(eps=0.1)
    with pytest.raises(TypeError, match="Unchecked.share must have a type that says how"):
        Unchecked(eps=0.1)


def test_an_unknown_field_is_named_beside_the_known_ones():
    with pytest.raises(TypeError, match=r"FGSM must have fields among eps, loss, clip, got 'epz'"):
        from_repr("FGSM(epz=0.1)")


@pytest.mark.parametrize("targeted", [False, True])
def test_a_claim_is_the_argmax_of_what_the_loss_compared(targeted):
    """Units beside codewords under the training loss, the decision under the others."""
    book = fr.Codebook.random(4, 16, key="claims")
    codes = fr.Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 16)), fr.heads.Codeword(book)
    ).double()
    x, y = images(200)
    x, other = x.double(), (y + 1) % 4
    wish = {"target": other} if targeted else {"y": y}
    vectors = book.vectors.double().numpy()

    result = FGSM(eps=0.2, loss="train").run(codes, x, **wish)
    u = codes.units(result.adv).detach().numpy()
    label = other if targeted else y
    same = u.argmax(1) == vectors.argmax(1)[label.numpy()]
    assert np.array_equal(result.claimed, same if targeted else ~same)
    decided = ((u[:, None] - vectors) ** 2).sum(2).argmin(1)
    assert np.array_equal(result.success, (decided == label.numpy()) == targeted)
    assert not torch.equal(result.claimed, result.success)  # the false successes of the paper

    for attack in (FGSM(eps=0.2), PGD(eps=0.2, steps=3, loss="train")):  # best: the decision
        result = attack.run(codes, x, **wish)
        assert torch.equal(result.claimed, result.success)


def test_random_targets_are_keyed_by_seed_and_index():
    labels = torch.arange(10).repeat(3000)
    targets = random_targets(labels, 10, seed=2**40 + 5)
    offset = (targets - labels) % 10
    assert targets.dtype is torch.int64 and offset.min() == 1 and offset.max() == 9
    expected = len(labels) / 9
    chi2 = ((offset.bincount()[1:] - expected) ** 2 / expected).sum()
    assert chi2 < 26  # 8 degrees of freedom: once in a thousand seeds
    order = torch.randperm(len(labels))
    assert torch.equal(random_targets(labels[order], 10, 2**40 + 5, order), targets[order])
    assert not torch.equal(random_targets(labels, 10, seed=1), targets)
    # By the definition, for one image far away.
    word = int(philox4x32([0, 7, 3, 0xFFFFFFFF], [5, 2**8])[0])
    one = random_targets(torch.tensor([4]), 10, 2**40 + 5, torch.tensor([3 * 2**32 + 7]))
    assert one.item() == (4 + 1 + word * 9 // 2**32) % 10
    with pytest.raises(ValueError, match="num_classes must be >= 2"):
        random_targets(labels, 1)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 9\)"):
        random_targets(labels, 9)


# Input that is refused


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_in_the_users_words(kind):
    net, (x, y), attack = model(), images(), kind(eps=0.3)
    nan, inf = x.clone(), x.clone()
    nan[2, 0, 1, 1], inf[0, 0, 0, 0] = torch.nan, torch.inf
    for arguments, options, error, words in (
        ((nan, y), {}, ValueError, "x must be finite"),
        ((inf, y), {}, ValueError, "x must be finite"),
        ((x * 2 - 1, y), {}, ValueError, r"x must lie in the box \(0.0, 1.0\), got -0.9"),
        (((x * 255).byte(), y), {}, TypeError, r"x.float\(\) / 255"),
        ((x.numpy(), y), {}, TypeError, "x must be a torch.Tensor, got ndarray"),
        ((x, y + 1), {}, ValueError, r"y must lie in \[0, 4\), got 1 to 4"),
        ((x, y - 1), {}, ValueError, r"y must lie in \[0, 4\), got -1"),
        ((x, y.float()), {}, TypeError, "y must hold integer class indices"),
        ((x, y[:3]), {}, ValueError, r"y must have shape \(5,\)"),
        ((x, y[:, None]), {}, ValueError, r"y must have shape \(5,\)"),
        ((x, y.tolist()), {}, TypeError, "y must be a torch.Tensor"),
        ((x, y.to("meta")), {}, RuntimeError, "y must be on cpu like the images, got meta"),
        ((x,), {"target": y + 1}, ValueError, r"target must lie in \[0, 4\)"),
        ((x, y), {"target": y}, ValueError, "target must differ from y, got 0 for both in row 0"),
        ((x, y), {"eps": -0.1}, ValueError, "eps must be finite and >= 0, got -0.1"),
        ((x, y), {"eps": torch.tensor([0.1, 0.1, -1, 0.1, 0.1])}, ValueError, "in every row"),
        ((x, y), {"eps": torch.ones(3)}, ValueError, r"eps must be a number or have shape \(5,\)"),
        ((x, y), {"index": torch.arange(4)}, ValueError, r"index must have shape \(5,\)"),
    ):
        with pytest.raises(error, match=words):
            attack.run(net, *arguments, **options)
    with pytest.raises(RuntimeError, match="the model must be on cpu like the images, got meta"):
        attack(model().to("meta"), x, y)


def test_no_box_takes_any_image():
    net, (x, y) = model(), images()
    adv = FGSM(eps=0.3, clip=None)(net, x * 4 - 2, y)
    torch.testing.assert_close((adv - (x * 4 - 2)).abs(), torch.full_like(x, 0.3))


def test_dlr_needs_three_classes():
    x, y = images()
    with pytest.raises(ValueError, match="dlr"):
        PGD(0.1, loss="dlr")(model(2), x, y % 2)


# Results


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_returns_an_empty_result(kind):
    x = torch.rand(0, 1, 3, 4)
    for y in (None, torch.zeros(0, dtype=torch.int64)):
        result = kind(eps=0.3).run(model(), x, y)
        assert result.adv.shape == x.shape
        for field in fields(result)[1:]:
            assert getattr(result, field.name).shape == (0,)
        assert result.queries.dtype is result.decision.dtype is torch.int64
        assert all(
            flags.dtype is torch.bool
            for flags in (result.success, result.claimed, result.invalid, result.stalled)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_nan_are_flagged_and_left_alone(kind):
    net, (x, y) = model(), images(8)

    def sometimes(x):
        return torch.where((x[:, 0, 0, 0] > 0.5)[:, None], torch.nan, net(x))

    x[:, 0, 0, 0] = torch.tensor([0.1, 0.9] * 4)
    attack = replace(kind(eps=0.05), loss="margin")
    for labels in (y, None):
        with pytest.warns(UserWarning, match="NaN for 4 of 8 images") as said:
            result = attack.run(sometimes, x, labels)
        assert len(said) == 1
        bad = torch.tensor([False, True] * 4)
        assert torch.equal(result.invalid, bad)
        assert torch.equal(result.adv[bad], x[bad]) and not result.success[bad].any()
        assert not result.claimed[bad].any() and (result.decision[bad] == -1).all()
        # One look (at the gradient, or for the label or the scores alone), then the verdict.
        look = 1 if labels is None or isinstance(attack, Square) else 2
        assert (result.queries[bad] == look + 1).all()
        if labels is not None:
            alone = attack.run(net, x[~bad], y[~bad], index=torch.arange(8)[~bad])
            torch.testing.assert_close(result.adv[~bad], alone.adv)
            assert torch.equal(result.success[~bad], alone.success)


def test_nan_at_the_last_image_alone_is_seen_by_the_verdict():
    net, (x, y) = model(), images()
    x = (x * 8).round() / 8

    def nan_once_moved(x):
        return torch.where((x * 8 != (x * 8).round()).flatten(1).any(1)[:, None], torch.nan, net(x))

    for attack in (FGSM(0.05), BIM(0.05, steps=1, keep="best")):
        with pytest.warns(UserWarning, match="NaN for 5 of 5 images"):
            result = attack.run(nan_once_moved, x, y)
        assert result.invalid.all() and torch.equal(result.adv, x)
        assert not result.success.any() and not result.claimed.any() and not result.linf.any()


def test_one_class_is_never_left():
    result = PGD(0.1).run(model(1), *images(1))
    assert not result.success.any() and result.decision.tolist() == [0]


def test_bim_warns_where_a_step_jumps_across_the_ball():
    net, (x, y) = model(), images()
    with pytest.warns(UserWarning, match="BIM with step_size > 2 eps .* 0.05 and eps 0.02"):
        BIM(eps=0.02)(net, x, y)
    with pytest.warns(UserWarning, match="BIM with step_size > 2 eps"):
        BIM(eps=0.2).run(net, x, y, eps=torch.tensor([0.1, 0.1, 0.01, 0.1, 0.1]))
    BIM(eps=0.025)(net, x, y)  # and no warning, which would be an error here
    MIM(eps=0.01)(net, x, y)


def test_images_of_any_layout_come_back_as_they_were():
    net, (x, y) = model(), images()
    expected = PGD(0.1)(net, x, y)
    attached = PGD(0.1)(net, x.clone().requires_grad_(), y)
    assert torch.equal(attached, expected) and not attached.requires_grad
    strange = x.transpose(2, 3).contiguous().transpose(2, 3)
    before = strange.clone()
    assert torch.equal(PGD(0.1)(net, strange, y), expected)
    assert torch.equal(strange, before)
    assert torch.equal(PGD(0.1)(net, x, y.int()), expected)
    assert PGD(0.1)(net[1], x.flatten(1), y).shape == (5, 12)
    # Labels, budgets and places that are views of something longer, or one number seen many times.
    views = {"eps": torch.tensor(0.1).expand(5), "index": torch.arange(10)[::2]}
    copies = {"eps": torch.full((5,), 0.1), "index": torch.arange(0, 10, 2)}
    longer = torch.stack([y, y], 1).flatten()[::2]
    assert torch.equal(PGD(0.1)(net, x, longer, **views), PGD(0.1)(net, x, y, **copies))


def test_rows_go_in_and_out_of_a_state():
    def state(count, offset=0.0):
        numbers = torch.arange(count) + offset
        return State(
            x0=numbers[:, None].clone(), x=-numbers[:, None], y=numbers.long(), sign=numbers + 1,
            eps=numbers + 2, index=numbers.long() + 3, iteration=numbers.long() + 4,
            queries=numbers.long() + 5, invalid=numbers > 2, stalled=numbers > 3, seed=9,
        )  # fmt: skip

    whole, some = state(5), torch.tensor([3, 1])
    taken = whole.take(some)
    assert len(taken) == 2 and taken.seed == 9
    other = state(2, offset=100.0)
    whole.put(some, other)
    for field in fields(whole):
        now, was = getattr(whole, field.name), getattr(state(5), field.name)
        if isinstance(was, torch.Tensor):
            assert torch.equal(getattr(taken, field.name), was[some])
            assert torch.equal(now[some], getattr(other, field.name))
            assert torch.equal(now[[0, 2, 4]], was[[0, 2, 4]])


def test_a_classifier_and_its_scores_are_attacked_alike():
    """Any other tool that takes logits can take a Classifier."""
    book = fr.Codebook.random(4, 16)
    classifier = fr.Classifier(model(16), fr.heads.Codeword(book)).double()
    x, y = images(30)
    as_is = PGD(0.1, steps=5).run(classifier, x.double(), y[:30])
    as_logits = PGD(0.1, steps=5).run(lambda x: classifier(x), x.double(), y[:30])
    torch.testing.assert_close(as_is.adv, as_logits.adv)
    assert torch.equal(as_is.success, as_logits.success)
