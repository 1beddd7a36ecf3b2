"""What holds for every attack, one after another; no attack is left out."""

import copy
import dataclasses
from dataclasses import FrozenInstanceError

import attack_table
import numpy_attacks
import pytest
import torch
from test_attacks_metamorphic import images, small_model

from fastrobust import attacks
from fastrobust.attacks import LBFGS, Attack
from fastrobust.attacks.fields import kinds

EVERY = pytest.mark.parametrize("attack", attack_table.ALL, ids=repr)


def run(attack, model, x, y, **options):
    if isinstance(attack, LBFGS):  # targeted only
        return attack.run(model, x, target=(y + 1) % 5, **options)
    return attack.run(model, x, y, **options)


def test_no_attack_is_left_out():
    ours = {
        name: kind for name, kind in kinds(Attack).items() if kind.__module__.startswith("fastr")
    }
    assert set(ours.values()) == {type(attack) for attack in attack_table.ALL}
    assert set(ours) <= set(attacks.__all__)


@EVERY
def test_its_repr_reads_back(attack):
    assert attacks.from_repr(repr(attack)) == attack


@EVERY
def test_it_never_changes(attack):
    name = next(iter(type(attack).__dataclass_fields__))
    with pytest.raises(FrozenInstanceError):
        setattr(attack, name, getattr(attack, name))
    assert {attack: 1}[dataclasses.replace(attack)] == 1  # equal attacks are one key


def test_what_must_be_positive_is_not_zero():
    for make in (lambda: attacks.CWL2(initial_const=0), lambda: attacks.FAB(eta=0)):
        with pytest.raises(ValueError, match="must be > 0 and finite, got 0"):
            make()


@EVERY
def test_it_has_what_other_packages_ask_for(attack):
    kind = type(attack)
    assert kind.per_row in (None, "eps", "initial_const")
    assert isinstance(kind.unbounded, bool) and kind.cost >= 0
    # What nothing bounds has no radius; FAB's eps is only where its random starts are.
    assert isinstance(attack.stride, int) and attack.stride >= 1
    for flag in ("uneven", "ends_early", "starts_at_image", "reads_units"):
        assert isinstance(getattr(attack, flag), bool), flag
    assert kind.unbounded == (kind.per_row != "eps")
    assert set(kind.letters) <= set(kind.__dataclass_fields__)


@EVERY
def test_results_model_and_input(attack):
    model, (x, y) = small_model(), images(6)
    before, state = x.clone(), copy.deepcopy(model.state_dict())
    result = run(attack, model, x, y, seed=1)
    assert torch.equal(x, before) and x.grad is None
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    decision = model.predict(result.adv)
    assert torch.equal(result.decision, decision)
    wanted = decision == (y + 1) % 5 if isinstance(attack, LBFGS) else decision != y
    assert torch.equal(result.success, wanted)
    change = (result.adv - x).flatten(1)
    torch.testing.assert_close(result.l2, change.norm(dim=1))
    torch.testing.assert_close(result.linf, change.abs().amax(1))
    if attack.clip is not None:
        assert result.adv.min() >= attack.clip[0] and result.adv.max() <= attack.clip[1]
    if attack.per_row == "eps":
        size = result.l2 if getattr(attack, "norm", "linf") == "l2" else result.linf
        assert (size <= attack.eps + 1e-12).all()
    assert (result.queries > 0).all()
    again = run(attack, model, x, y, seed=1)
    assert torch.equal(again.adv, result.adv) and torch.equal(again.queries, result.queries)


@pytest.mark.parametrize(("head", "guess"), [("ce", 0), ("codeword", 1)])
def test_a_guessed_label_vector_costs_one_query(head, guess):
    """On codewords the vector of an untargeted row is guessed at the clean image."""
    model = numpy_attacks.Net.make(head).torch()
    x = torch.rand(4, *numpy_attacks.SHAPE).double()
    attack = attacks.FGSM(eps=0.1, loss="units-ce")
    labels = model.predict(x)
    steps_and_decision = 2 + 1
    assert (attack.run(model, x, labels).queries == steps_and_decision + guess).all()
    assert (attack.run(model, x).queries == steps_and_decision + 1).all()  # the label itself
    assert (attack.run(model, x, target=(labels + 1) % 3).queries == steps_and_decision).all()
