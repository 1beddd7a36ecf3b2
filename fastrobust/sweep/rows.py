"""The rows of a group of cells under attack: how they are made, and what they are when done.

``cell_rows.py`` and ``shared_search.py`` decide which rows there are.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attacks.base import Attack
from ..attacks.targets import Goal
from ..engine.gradients import Oracle
from .testbed import Testbed


class FinishedRows(NamedTuple):
    """Rows that an attack is done with.

    Attributes:
        cell: (M,) int64 number of the cell in its group.
        image: (M,) int64 index of the image.
        state: The attack's state of these rows.
    """

    cell: Tensor
    image: Tensor
    state: Any


class RowFactory:
    """Makes fresh rows of a group of cells, which differ in the attack's field per row alone.

    Args:
        attack: The attack of the cells; of several lengths, the longest.
        network: The network that it attacks.
        testbed: Classifier and images.
        goal: What the attack shall reach on each image.
        first_success: Let searches end at their first success where the true label is left.
    """

    def __init__(
        self,
        attack: Attack[Any],
        network: Oracle,
        testbed: Testbed,
        goal: Goal,
        first_success: bool,
    ) -> None:
        self.attack, self.network, self.testbed, self.goal = attack, network, testbed, goal
        # To leave one's own wrong decision may be to arrive at the true label.
        suited = (goal.sign < 0) | (goal.y == testbed.y)
        self.first_success = suited if first_success else torch.zeros_like(suited)

    def make(self, attack: Attack[Any], image: Tensor, value: Tensor | None) -> Any:
        """Return the state of rows at these images (M,) with these values (M,) of the field."""
        x, goal = self.testbed.x[image], self.goal
        z = None if goal.z is None else goal.z[image]
        goal = Goal(goal.y[image], goal.sign[image], goal.valid[image], goal.asked, z)
        per_row = {} if attack.per_row is None else {attack.per_row: value}
        x0 = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
        state = attack.start(self.network, x0, goal, **per_row, seed=self.testbed.seed, index=image)
        if hasattr(state, "first_success"):
            state.first_success |= self.first_success[image]
        return state
