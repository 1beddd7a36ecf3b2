"""An attack that is not the package's own works everywhere, and no list names it."""

import csv
from dataclasses import dataclass

import pytest
import torch
from test_attacks_metamorphic import images, small_model
from tiny_run import prepare

import fastrobust as fr
from fastrobust.attacks.fields import MaybeBox, NonNegative
from fastrobust.attacks.state import BallState, counters
from fastrobust.evaluation import ThreatModel
from fastrobust.evaluation.sanity.case import Case
from fastrobust.evaluation.sanity.checks import inspect
from fastrobust.runs.folder import checkpoint_path
from fastrobust.runs.plan import Cell, Plan


@dataclass(frozen=True, repr=False)
class Toy(fr.attacks.Attack):
    """One step of size eps along the sign of the gradient."""

    per_row = "eps"

    eps: NonNegative
    clip: MaybeBox = (0.0, 1.0)

    objective = "ce"

    def init(self, rows):
        return BallState(**vars(rows), **counters(rows), x=rows.x0.clone())

    def advance(self, state, answer, live):
        size = state.eps.view(-1, 1, 1, 1)
        state.x.copy_((state.x0 + size * answer.grad.sign()).clamp(*self.clip))
        state.iteration += 1

    def done(self, state):
        return (state.iteration >= 1) | state.invalid

    def adversarial(self, network, state):
        return state.x


@dataclass(frozen=True, repr=False)
class Dreamer(Toy):
    """Believes that it always succeeds, and never moves an image."""

    unbounded = True

    def advance(self, state, answer, live):
        state.iteration += 1

    def claim(self, network, state, z, decision):
        return torch.ones_like(state.invalid)


def test_a_direct_call_is_fgsm():
    model, (x, y) = small_model(), images()
    ours, theirs = (kind(eps=0.1).run(model, x, y) for kind in (Toy, fr.attacks.FGSM))
    assert torch.equal(ours.adv, theirs.adv) and torch.equal(ours.queries, theirs.queries)
    assert fr.attacks.from_repr(repr(Toy(eps=0.1))) == Toy(eps=0.1) != fr.attacks.FGSM(eps=0.1)
    with pytest.raises(ValueError, match="eps must be >= 0 and finite, got -1"):
        Toy(eps=-1)


def decide_by_brightness(plan, out):
    """Make the classifier of the plan one whose decisions follow from the image."""
    path = checkpoint_path(out, "O:SOFTMAX:CE")
    model = fr.checkpoint.load(path)
    x = fr.data.load(plan.data_set).x_test
    with torch.no_grad():
        z = model.net(x)
        model.net.linear.bias -= z.mean(0)
        model.net.linear.weight *= 100
        model.net.linear.bias *= 100
    fr.checkpoint.save(path, model, seed=0)


def test_a_sweep_with_a_report(tmp_path):
    plan, out = prepare(tmp_path)
    decide_by_brightness(plan, out)
    kinds = {"toy": "Toy(eps={})", "FGSM": "FGSM(eps={})", "dreamer": "Dreamer(eps={})"}
    kinds["PGD"] = "PGD(eps={}, step_size=0.1)"
    cells = [
        Cell(5, name, "eps", eps, "O:SOFTMAX:CE", text.format(eps), targeted=True)
        for name, text in kinds.items()
        for eps in (0.1, 0.9)
    ]
    outcome = fr.sweep.run(Plan(**{**vars(plan), "cells": tuple(cells)}), out)
    assert not outcome.failed
    written = fr.report.write(out)
    with open(written.csv, newline="") as file:
        rows = {(row["column"], float(row["value"])): row for row in csv.DictReader(file)}
    for eps in (0.1, 0.9):
        assert rows["toy", eps]["rate"] == rows["FGSM", eps]["rate"]
        # An attack that nothing bounds, and that another one beats, is doubted.
        assert "∞" in rows["dreamer", eps]["marks"] and "∞" not in rows["toy", eps]["marks"]
    assert "dreamer" in written.page.read_text()


@pytest.mark.parametrize(("eps", "expected"), [(0.3, "pass"), (0.6, "fail")])
def test_the_checks_of_an_evaluation_look_at_its_images(eps, expected):
    model, (x, y) = small_model(), images(32)
    adv = Toy(eps=eps)(model, x, y)
    broken = model.predict(adv) != y
    threat = ThreatModel("linf", 0.3, (0.0, 1.0))
    checks = inspect(Case(model, x, y, threat, adv=adv, broken=broken), "quick")
    verdicts = {check.name: check.verdict for check in checks}
    assert verdicts["ball and box"] == expected
