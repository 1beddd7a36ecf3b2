"""Computes cells: runs their attack on every image, and yields each cell when it is complete.

:func:`measure` computes a group of cells of one classifier that share an attack. The cells differ
in one value per row (eps, the first c), or in how long they run, so that their rows share the
network's batches (continuous batching, ``engine/scheduler.py``). Rows come from
``cell_rows.py``, or from ``shared_search.py`` if the attack searches for c; ``collect.py`` makes
cells of them.
:func:`measure_transfer` computes a cell from the adversarial images of another classifier.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch

from ..engine.opening import oracle
from ..engine.scheduler import run_continuous
from ..runs.folder import IMAGES_KEPT
from ..runs.plan import Cell
from .cell_rows import CellRows
from .collect import CellCollector, Measurement
from .options import SweepOptions
from .rows import RowFactory
from .shared_search import SharedSearches
from .testbed import Testbed


def measure(
    cells: list[Cell],
    testbed: Testbed,
    *,
    first_success: bool = False,
    keep: int = IMAGES_KEPT,
    options: SweepOptions | None = None,
) -> Iterator[tuple[int, dict[Cell, Measurement]]]:
    """Run the attack of some cells on every image.

    Args:
        cells: Cells of one classifier that one group may hold, see ``work.group_of``; no transfers.
        testbed: Classifier and images. The classifier is in eval mode, without gradients of its
            weights, until the last cell has been yielded.
        first_success: Let searches end at their first success; the same for all of the cells.
        keep: Number of adversarial images to keep, the first ones.
        options: What the cells share; everything by default.

    Yields:
        Number of rows done since the last yield, and the cells that they complete.
    """
    options = options or SweepOptions()
    keep = min(keep, len(testbed))
    attacks: list[Any] = [cell.parsed_attack for cell in cells]
    if attacks[0] is None:
        for cell in cells:
            yield len(testbed), {cell: _measure_clean(testbed, keep)}
        return
    prefix = attacks[0].prefix
    if prefix and len(cells) > 1:
        if not options.prefixes:
            for cell in cells:
                yield from measure([cell], testbed, keep=keep, options=options)
            return
        cells = sorted(cells, key=lambda cell: getattr(cell.parsed_attack, prefix))
        attacks = [cell.parsed_attack for cell in cells]
    longest = attacks[-1]
    longest.check_box(testbed.x)
    goal = testbed.goal(targeted=cells[0].targeted, labels=cells[0].labels)
    common = {
        "index": torch.arange(len(testbed)),
        "label": testbed.y,
        "target": goal.y if cells[0].targeted else torch.full_like(testbed.y, -1),
        "clean": testbed.decision,
    }
    with oracle(testbed.model, testbed.x.device) as network:
        # An attack that leaves the model's own wrong decision may arrive at the true label.
        suited = (goal.sign < 0) | (goal.y == testbed.y)
        may_stop = suited & (first_success and options.first_success)
        factory = RowFactory(longest, network, testbed.x, goal, may_stop, testbed.seed)
        values = [getattr(a, longest.per_row) if longest.per_row else 0.0 for a in attacks]
        sharing = len(cells) > 1 or bool(may_stop.any())
        source: CellRows | SharedSearches
        if options.shared_const and longest.per_row == "initial_const" and sharing:
            source = SharedSearches(factory, values)
        else:
            lengths = [getattr(attack, prefix) for attack in attacks] if prefix else []
            source = CellRows(factory, values, lengths, testbed.batch, options.clean_gradient)
        collector = CellCollector(
            network, longest, testbed.x, testbed.batch, source.caused, common, keep
        )
        finished = run_continuous(source.attack, network, source, testbed.batch)
        events = chain.from_iterable(collector.add(rows) for rows in finished)
        for count, completed in chain(events, collector.flush()):
            yield count, {cells[number]: cell for number, cell in completed.items()}


def _measure_clean(testbed: Testbed, keep: int) -> Measurement:
    """Return a cell without attack: the decisions on the clean images."""
    count, decision = len(testbed), testbed.decision.cpu().numpy()
    rows = {
        "index": np.arange(count),
        "label": testbed.y.cpu().numpy(),
        "target": np.full(count, -1),
        "clean": decision,
        "decision": decision,
        "claimed": np.zeros(count, bool),
        "success": np.zeros(count, bool),
        "l2": np.zeros(count),
        "linf": np.zeros(count),
        "queries": np.ones(count, np.int64),
    }
    invalid = int((~testbed.clean[2]).sum())
    sums = {"naive": count, "executed": count, "invalid": invalid, "stalled": 0}
    images = {"index": np.arange(keep), "adversarial": testbed.x[:keep].cpu().numpy()}
    return Measurement(rows, {"seconds": 0.0, **sums, "first_success": False}, images)


def measure_transfer(cell: Cell, testbed: Testbed, source: Measurement) -> Measurement:
    """Classify the adversarial images of another classifier, the cell `source`.

    Untargeted, a success is a decision that is not the true label. The claim is the success on the
    other classifier, and distances are those of its images.
    """
    assert source.images is not None
    images = torch.from_numpy(source.images["adversarial"]).to(testbed.x)
    with oracle(testbed.model, testbed.x.device) as network:
        before = network.evaluations
        _, decision, valid = testbed.decide(network, images)
        executed = network.evaluations - before
    decided = decision.masked_fill(~valid, -1).cpu().numpy()
    rows = dict(source.rows)
    wanted = rows["target"] if cell.targeted else rows["label"]
    hit = (decided == wanted) == cell.targeted
    rows.update(
        clean=testbed.decision.cpu().numpy(),
        decision=decided,
        claimed=source.rows["success"],
        success=hit & valid.cpu().numpy(),
        queries=np.ones(len(images), np.int64),
    )
    sums = {"naive": len(images), "executed": executed, "invalid": int((~valid).sum())}
    return Measurement(rows, {"seconds": 0.0, **sums, "stalled": 0, "first_success": False}, None)
