"""Makes the rows of a group of cells, one image under attack each.

``cell_rows.py`` and ``shared_search.py`` decide which rows are needed, and when they are finished.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attacks.targets import Goal
from ..engine.gradients import Oracle


class FinishedRows(NamedTuple):
    """Rows whose attack has ended.

    Attributes:
        cell: (M,) int64 number of the cell in its group.
        image: (M,) int64 index of the image.
        state: The attack's state of these rows.
    """

    cell: Tensor
    image: Tensor
    state: Any


@dataclass(frozen=True)
class RowFactory:
    """Makes fresh rows of a group of cells, which differ in the attack's field per row alone.

    Attributes:
        attack: The attack of the cells; if they differ in length, the longest.
        network: The network that it attacks.
        x: Images (N, C, H, W) with pixels in [0, 1].
        goal: The class that each row must reach or leave.
        first_success: (N,) bool, whether the searches on an image may end at their first success.
        seed: Seed of random starts.
    """

    attack: Any
    network: Oracle
    x: Tensor
    goal: Goal
    first_success: Tensor
    seed: int

    def make(self, attack: Any, image: Tensor, value: Tensor | None) -> Any:
        """Return the state of rows at these images (M,) with these values (M,) of the field."""
        x, goal = self.x[image], self.goal
        z = None if goal.z is None else goal.z[image]
        goal = Goal(goal.y[image], goal.sign[image], goal.valid[image], goal.asked, z)
        per_row = {} if attack.per_row is None else {attack.per_row: value}
        x0 = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
        state = attack.start(self.network, x0, goal, **per_row, seed=self.seed, index=image)
        if hasattr(state, "first_success"):
            state.first_success |= self.first_success[image]
        return state
