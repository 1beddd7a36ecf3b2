"""Measures cells: those of one classifier that share an attack, together; each by itself where not.

A group of cells differs in the budget of its rows alone (eps, the first c), or in how long they
run; its rows share the slots. ``flows.py`` says what else they share.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from .. import attacks
from ..engine import scheduler
from ..engine.opening import oracle
from ..runs.folder import IMAGES_KEPT
from ..runs.plan import Cell
from .collect import Measurement, Tally
from .rows import Rows, Savings, Start
from .shared_search import Searches
from .testbed import Subject

Done = Callable[[Cell, Measurement], None]


def rule_of(cell: Cell) -> str | None:
    """Say what cells have in common that can share slots: the attack without what varies."""
    if cell.attack is None:
        return None
    attack: Any = attacks.from_repr(cell.attack)
    return repr(replace(attack, **{name: 1 for name in (attack.per_row, attack.prefix) if name}))


def may_stop_early(cell: Cell, subject: Subject) -> bool:
    """Whether a cell's searches may end at their first success: it changes distances alone."""
    if cell.attack is None or cell.source is not None or cell.distances:
        return False
    attack: Any = attacks.from_repr(cell.attack)
    return attack.per_row == "initial_const" and attack.tests_decision(subject.model.head)


def measure(
    cells: list[Cell],
    subject: Subject,
    done: Done,
    advance: Callable[[int], None],
    *,
    first_success: bool = False,
    keep: int = IMAGES_KEPT,
    savings: Savings | None = None,
) -> None:
    """Run the attack of some cells on every image.

    Args:
        cells: Cells of one classifier with one :func:`rule_of`, targeted alike, with labels alike;
            no transfers.
        subject: On which classifier and images.
        done: Called with every cell and what was measured, as soon as it is whole.
        advance: Called with the number of rows found.
        first_success: Let searches end at their first success; all of the cells must agree.
        keep: How many of the first adversarial images to keep.
        savings: What the cells may share; all by default.
    """
    savings = savings or Savings()
    with oracle(subject.model, subject.x.device) as network:
        if cells[0].attack is None:
            for cell in cells:
                done(cell, _clean(subject, min(keep, len(subject))))
                advance(len(subject))
            return
        made: list[Any] = [attacks.from_repr(str(cell.attack)) for cell in cells]
        prefix = made[0].prefix
        if prefix and len(cells) > 1:
            if not savings.prefixes:
                for cell in cells:
                    measure([cell], subject, done, advance, keep=keep, savings=savings)
                return
            from_short_to_long = sorted(range(len(cells)), key=lambda n: getattr(made[n], prefix))
            cells, made = ([found[n] for n in from_short_to_long] for found in (cells, made))
        rule = made[-1]
        rule.check_box(subject.x)
        goal = subject.goal(targeted=cells[0].targeted, labels=cells[0].labels)
        start = Start(rule, network, subject, goal, first_success and savings.first_success)
        tally = Tally(network, subject, cells, min(keep, len(subject)), done, advance)
        budgets = [getattr(attack, rule.per_row) for attack in made] if rule.per_row else [0.0]
        sharing = len(cells) > 1 or bool(start.first_success.any())
        if savings.shared_const and rule.per_row == "initial_const" and sharing:
            searches = Searches(start, tally, budgets)
            scheduler.run_continuous(searches.inner, network, searches, subject.batch)
        else:
            lengths = [getattr(attack, prefix) for attack in made] if prefix else []
            rows = Rows(start, tally, budgets, lengths, savings)
            scheduler.run_continuous(rule, network, rows, subject.batch)
        tally.flush(rule)


def _clean(subject: Subject, keep: int) -> Measurement:
    """Nothing attacks: the decision is the clean one, and so are the images that are kept."""
    count, decision = len(subject), subject.decision.cpu().numpy()
    nothing = np.zeros(count)
    rows = {
        "index": np.arange(count),
        "label": subject.y.cpu().numpy(),
        "target": np.full(count, -1),
        "clean": decision,
        "decision": decision,
        "claimed": nothing.astype(bool),
        "success": nothing.astype(bool),
        "l2": nothing,
        "linf": nothing,
        "queries": np.ones(count, np.int64),
    }
    invalid = int((~subject.clean[2]).sum())
    sums = {"naive": count, "executed": count, "invalid": invalid, "stalled": 0}
    images = {"index": np.arange(keep), "adversarial": subject.x[:keep].cpu().numpy()}
    return Measurement(rows, {"seconds": 0.0, **sums, "first_success": False}, images)


def judge(cell: Cell, subject: Subject, source: Measurement) -> Measurement:
    """Judge the adversarial images of another classifier (`source`'s rows) by this one.

    Untargeted, a success is a decision that is not the true label; the claim is the source's own
    success, and distances are the source's.
    """
    assert source.images is not None
    images = torch.from_numpy(source.images["adversarial"]).to(subject.x)
    with oracle(subject.model, subject.x.device) as network:
        before = network.evaluations
        _, decision, valid = subject.decide(network, images)
        executed = network.evaluations - before
    decided = decision.masked_fill(~valid, -1).cpu().numpy()
    rows = dict(source.rows)
    wanted = rows["target"] if cell.targeted else rows["label"]
    hit = (decided == wanted) == cell.targeted
    rows.update(
        clean=subject.decision.cpu().numpy(),
        decision=decided,
        claimed=source.rows["success"],
        success=hit & valid.cpu().numpy(),
        queries=np.ones(len(images), np.int64),
    )
    sums = {"naive": len(images), "executed": executed, "invalid": int((~valid).sum())}
    return Measurement(rows, {"seconds": 0.0, **sums, "stalled": 0, "first_success": False}, None)


def switched_off(names: Iterable[str]) -> Savings:
    """Return the savings without those named.

    Raises:
        ValueError: There is no saving of that name.
    """
    known = {field.name.replace("_", "-"): field.name for field in fields(Savings)}
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"savings must be among {', '.join(known)}, got {unknown}")
    return Savings(**{known[name]: False for name in names})
