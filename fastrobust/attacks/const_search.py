"""The search over c, the weight of an attack's loss against the distance from the image."""

from typing import Any, TypeVar

import torch
from torch import Tensor

from ..models.heads import Head
from .rule import AttackRule
from .state import State

S = TypeVar("S", bound=State)

_NO_SUCCESS_YET = 1e9


def bisect(succeeded: Tensor, const: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
    """Return the next c of each row and the bounds around it, as cleverhans v2.1.0 searches.

    After a success c is halved towards the greatest that failed. After a failure it is 10 times as
    much, or half way to the least that succeeded. (Carlini and Wagner, arXiv 1608.04644, and
    attacks_tf.py of cleverhans; there, ten or more steps spend the last one at `upper` again.)

    Args:
        succeeded: (N,) bool, whether c led to a success.
        const: (N,) that c.
        lower: (N,) greatest c that failed, 0 at first.
        upper: (N,) least c that succeeded, 1e10 at first.

    Returns:
        (N,) each: const, lower, upper.
    """
    upper = torch.where(succeeded, torch.minimum(upper, const), upper)
    lower = torch.where(succeeded, lower, torch.maximum(lower, const))
    middle = (lower + upper) / 2
    beyond = torch.where(succeeded, const, const * 10)
    return torch.where(upper < _NO_SUCCESS_YET, middle, beyond), lower, upper


class SearchRule(AttackRule[S]):
    """What the attacks that search for c have in common.

    Their state has ``const``, ``search`` (steps made), ``found``, ``won``, ``first_success`` (one
    success is enough), ``best``, ``best_l2`` and ``best_f``; so a scheduler can make the steps of
    several searches once. See :class:`fastrobust.ops.CwRows` for what they hold.
    """

    per_row = "initial_const"
    letters = {"initial_const": "c"}
    binary_search_steps: int

    def tests_decision(self, head: Head) -> bool:
        """In units view only where the outputs that are looked at are one for each class."""
        return not self.reads_units or head.vectors is None

    @property
    def uneven(self) -> bool:
        """One search ends where another begins."""
        return True

    def stopped_early(self, state: Any) -> Tensor:
        """Rows that won before their last step."""
        return state.first_success & state.won & (state.search < self.binary_search_steps)

    def saved_queries(self, state: Any) -> Tensor:
        """Each step that was not made counts as :meth:`cost_of_a_step` says."""
        steps = (self.binary_search_steps - state.search).clamp_min(0)
        return (self.stopped_early(state) * steps * self.cost_of_a_step(state)).long()

    def cost_of_a_step(self, state: Any) -> Tensor | float:
        """Evaluations that a step of the search takes, as far as is known."""
        raise NotImplementedError

    def spent(self, state: Any) -> Tensor:
        """Whether the search is over (N,): all steps made, or a success where one is enough."""
        return (state.search >= self.binary_search_steps) | (state.first_success & state.won)
