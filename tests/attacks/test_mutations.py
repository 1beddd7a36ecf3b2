"""Bugs that attacks have had elsewhere, planted one at a time, and the test that kills each.

Only a failed assertion of the test kills a bug, and the planted code must have run: otherwise the
bug no longer does what its docstring says.
"""

from dataclasses import replace

import pytest
import test_attacks_apgd
import test_attacks_fab
import test_attacks_golden
import test_attacks_linear
import test_attacks_square
import test_evaluation
import torch

from fastrobust.attacks import APGD, PGD, apgd, base, sign, sign_rule, square
from fastrobust.attacks.base import Attack
from fastrobust.attacks.sign_rule import SignAttack
from fastrobust.attacks.state import Rows
from fastrobust.engine import gradients
from fastrobust.evaluation import threat_model, worst_case

PGD_ATTACK = PGD(eps=test_attacks_linear.EPS, step_size=0.02)
APGD_ATTACK = APGD(eps=0.1, loss="margin")


class Planted:
    """Replaces attributes, and notes whether what it put there was called."""

    def __init__(self, patch):
        self.patch, self.reached = patch, False

    def put(self, owner, name, planted):
        def called(*args, **named):
            self.reached = True
            return planted(*args, **named)

        self.patch.setattr(owner, name, called)


# What is broken


def wrong_sign(patch):
    """Goes down where it should climb, by gradient or by score."""
    gradient, score = gradients.Oracle.gradient, gradients.Oracle.score

    def down(*asked, **named):
        answer = gradient(*asked, **named)
        return answer._replace(grad=-answer.grad)

    def worse(*asked, **named):
        answer = score(*asked, **named)
        return answer._replace(loss=-answer.loss)

    patch.put(gradients.Oracle, "gradient", down)
    patch.put(gradients.Oracle, "score", worse)


def wrong_label(patch):
    """Asks about the next image's label."""
    for name in ("gradient", "score"):
        real = getattr(gradients.Oracle, name)

        def shifted(self, x, y, *rest, real=real, **named):
            return real(self, x, y.roll(1), *rest, **named)

        patch.put(gradients.Oracle, name, shifted)


def no_projection(patch):
    """Leaves the ball."""
    for module in (sign_rule, apgd):
        real = module.launch_step

        def free(x, x0, grad, momentum, kind, eps, *rest, real=real):
            return real(x, x0, grad, momentum, kind, 1e3 * eps + 1, *rest)

        patch.put(module, "launch_step", free)
    for module in (sign, apgd):
        patch.put(module, "into_ball", lambda x, *_: x)


def no_projection_of_square(patch):
    """Lets squares change pixels in a ball of twice the size."""
    real = square.launch_square

    def free(rows, *rest):
        wide = replace(rows, eps=2 * rows.eps)  # the same tensors but for eps
        return real(wide, *rest)

    patch.put(square, "launch_square", free)


def last_iterate_dropped(patch):
    """Forgets to look at the image after the last step."""
    patch.put(
        SignAttack,
        "adversarial",
        lambda self, network, state: state.x if state.best is None else state.best,
    )


def last_iterate_of_apgd_dropped(patch):
    """Ends a step too early."""
    real = APGD.done

    def early(self, state):
        last = (state.iteration >= self.steps) & (state.run + 1 >= self._runs(state))
        return real(self, state) | last

    patch.put(APGD, "done", early)


def wrong_success(patch):
    """Calls an image a success that is decided as its label."""
    patch.put(Rows, "hit", lambda self, decision: (decision == self.y) == (self.sign > 0))


def success_of_the_clean_image(patch):
    """Decides by the images that came in."""
    real = Attack.assess

    def assess(self, network, state, x):
        result = real(self, network, state, x)
        decision = network.decide(state.x0)[1]
        object.__setattr__(result, "success", state.hit(decision))
        return result

    patch.put(Attack, "assess", assess)


def rivals_by_lowest_score(patch):
    """Goes for the least likely class first."""
    real = base.highest_rivals
    patch.put(base, "highest_rivals", lambda scores, y, count: real(-scores, y, count))


def outside_of_the_ball_counts(patch):
    """Takes what a minimal attack finds at any distance for a success."""
    patch.put(threat_model, "into_ball", lambda x, *_: x)


def all_images_go_on(patch):
    """Gives a later attack the images that an earlier one broke, and believes what it says."""
    real = worst_case.WorstCase._all

    def every(self, *stage, **named):
        self.broken_by.fill_(-1)
        return real(self, *stage, **named)

    patch.put(worst_case.WorstCase, "_all", every)


# What kills it


def linear_sign():
    test_attacks_linear.test_linf_attacks_reach_the_smallest_margin(PGD_ATTACK, False, True)


def linear_apgd():
    test_attacks_apgd.test_linear_models_are_broken_where_they_can_be(APGD_ATTACK, True)


def golden_pgd():
    test = test_attacks_golden.test_pgd_keeps_the_first_success_or_the_highest_loss
    test("ce", 1, "best", False)


def linear_apgd_in_one_step():
    attack = APGD(eps=0.1, loss="margin", steps=1)
    test_attacks_apgd.test_linear_models_are_broken_where_they_can_be(attack, True)


def rivals_in_turn():
    test = test_attacks_apgd.test_with_targets_every_rival_gets_a_run_of_its_own
    test(kind=APGD, loss="margin")


def planes_fab():
    test_attacks_fab.test_hyperplanes_are_reached_by_the_shortest_way(
        "linf", 10, None, torch.float64
    )


def plane_square():
    test = test_attacks_square.test_linf_reaches_the_smallest_margin_of_a_hyperplane
    test(True, False, range(500))


def linear_evaluation():
    with pytest.MonkeyPatch.context() as patch:
        test_evaluation.test_linear_models_are_left_what_they_have("linf", "standard", patch)


def union():
    with pytest.MonkeyPatch.context() as patch:
        test_evaluation.test_the_worst_case_is_the_union_and_only_standing_images_go_on(patch)


LIST = [
    (wrong_sign, linear_sign),
    (wrong_sign, linear_apgd),
    (wrong_sign, plane_square),
    (wrong_sign, planes_fab),
    (wrong_label, linear_sign),
    (wrong_label, linear_apgd),
    (wrong_label, plane_square),
    (wrong_label, planes_fab),
    (no_projection, linear_sign),
    (no_projection, linear_apgd),
    (no_projection_of_square, plane_square),
    (last_iterate_dropped, golden_pgd),
    (last_iterate_of_apgd_dropped, linear_apgd_in_one_step),
    (wrong_success, linear_sign),
    (wrong_success, linear_apgd),
    (wrong_success, plane_square),
    (wrong_success, planes_fab),
    (success_of_the_clean_image, linear_sign),
    (success_of_the_clean_image, planes_fab),
    (rivals_by_lowest_score, rivals_in_turn),
    (outside_of_the_ball_counts, linear_evaluation),
    (all_images_go_on, union),
]


@pytest.mark.parametrize(
    ("bug", "test"), LIST, ids=[f"{bug.__name__}-{test.__name__}" for bug, test in LIST]
)
def test_every_planted_bug_is_killed(bug, test):
    with pytest.MonkeyPatch.context() as patch:
        planted = Planted(patch)
        bug(planted)
        with pytest.raises(AssertionError):
            test()
        assert planted.reached, "the planted bug must run, but nothing called it"


@pytest.mark.parametrize("test", {test for _, test in LIST}, ids=lambda test: test.__name__)
def test_without_a_bug_they_pass(test):
    test()
