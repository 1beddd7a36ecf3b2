"""Measures cells: those of one classifier that share an attack, together; each by itself where not.

A group of cells differs in the budget of its rows alone (eps, the first c), or in how long they
run; its rows share the slots. ``flows.py`` says what else they share.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from . import attacks, slots
from .tally import Measurement, Tally, images_kept
from .engine import oracle
from .flows import Rows, Savings, Searches, Start
from .plans import Cell
from .subject import Subject

Done = Callable[[Cell, Measurement], None]


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Put cells together that can share slots, in the order of their first one."""
    found: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        rule = cell.attack and _without_budget(attacks.from_repr(cell.attack))
        key = (cell.model, cell.source, rule, cell.targeted, cell.labels)
        if cell.attack is None or cell.source is not None:
            key = (*key, cell)
        found.setdefault(key, []).append(cell)
    return list(found.values())


def _without_budget(attack: Any) -> str:
    """What cells of one group have in common."""
    varied = {name: 1 for name in (attack.budget, attack.prefix) if name}
    return repr(replace(attack, **varied))


def may_hurry(cell: Cell, subject: Subject, savings: Savings) -> bool:
    """Whether searches of a cell may end at their first success: it changes distances alone."""
    if cell.attack is None or cell.source is not None or cell.distances:
        return False
    attack: Any = attacks.from_repr(cell.attack)
    searches = hasattr(attack, "initial_const")
    return savings.first_success and searches and attack.tests_decision(subject.model.head)


def measure(
    cells: list[Cell],
    subject: Subject,
    done: Done,
    advance: Callable[[int], None],
    savings: Savings | None = None,
) -> None:
    """Run the attack of a group of cells on every image.

    Args:
        cells: One of :func:`groups`, without transfers.
        subject: On which classifier and images.
        done: Called with every cell and what was measured, as soon as it is whole.
        advance: Called with the number of rows found.
        savings: What the cells may share; all by default.
    """
    savings = savings or Savings()
    with oracle(subject.model, subject.x.device) as network:
        if cells[0].attack is None:
            for cell in cells:
                done(cell, _clean(subject))
                advance(len(subject))
            return
        made: list[Any] = [attacks.from_repr(str(cell.attack)) for cell in cells]
        prefix = made[0].prefix
        if prefix is not None:  # from short to long
            order = sorted(range(len(cells)), key=lambda n: getattr(made[n], prefix))
            cells, made = [cells[n] for n in order], [made[n] for n in order]
        if prefix is not None and not savings.prefixes and len(cells) > 1:
            for cell in cells:
                measure([cell], subject, done, advance, savings)
            return
        rule = made[-1]
        goal = subject.goal(targeted=cells[0].targeted, labels=cells[0].labels)
        hasty = all(may_hurry(cell, subject, savings) for cell in cells)
        start = Start(rule, network, subject, goal, hasty)
        whole = any(cell.keeps_images for cell in cells)
        tally = Tally(network, subject, cells, images_kept(subject, whole), done, advance)
        budgets = [getattr(attack, rule.budget) for attack in made] if rule.budget else [0.0]
        if savings.shared_const and rule.budget == "initial_const" and len(cells) > 1:
            work: slots.Work = Searches(start, tally, budgets)
            driven = work.inner
        else:
            lengths = [getattr(attack, prefix) for attack in made] if prefix else []
            work, driven = Rows(start, tally, budgets, lengths, savings), rule
        slots.flow(driven, network, work, subject.batch)
        tally.flush(rule)


def _clean(subject: Subject) -> Measurement:
    """Nothing attacks: the decision is the clean one."""
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
    return Measurement(rows, {"seconds": 0.0, **sums, "first_success": False}, None)


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
