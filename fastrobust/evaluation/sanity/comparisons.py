"""Checks that play attacks off against each other: the weaker must not win.

Athalye, Carlini and Wagner (arXiv 1802.00420, section 3.1) and Carlini et al. (arXiv 1902.06705,
section 4) list these signs of gradients that lead nowhere.
"""

import torch
from torch import Tensor

from ...attacks import APGD, Square
from ...models.heads import Surrogate
from ...ops.random_start_op import launch_start
from ...ops.step_op import into_ball
from .case import Check, Probe, Verdict, more, several, skipped

_HIGH, _SURE = 0.05, 0.01  # share of images that counts, and the chance that luck may have


def one_step(probe: Probe) -> Check:
    """One step must not break what many steps do not."""
    one, many = probe.one_step, probe.broken(probe.pgd())
    alone = one & ~many
    count = int(alone.sum())
    return Check(
        "one step against many",
        _verdict(more(one, many) < _SURE, several(count, len(probe), _HIGH)),
        count,
        f"One step breaks {count} of {len(probe)} images that {probe.effort.steps} steps do not.",
        "Gradients along the way are wrong or lead nowhere: attack by queries and by transfer.",
        probe.where(alone),
    )


def budget(probe: Probe) -> Check:
    """A larger ball holds the smaller one."""
    scales = (0.25, 0.5, 1.0, 2.0)
    broken = [probe.broken(probe.pgd(eps=scale * probe.case.eps)) for scale in scales]
    lost = torch.zeros_like(broken[0])
    sure = False
    for small, large in zip(broken, broken[1:], strict=False):
        lost |= small & ~large
        sure |= more(small, large) < _SURE
    rates = ", ".join(f"{1 - float(flags.float().mean()):.2f}" for flags in broken)
    count = int(lost.sum())
    return Check(
        "a larger budget",
        _verdict(sure, several(count, len(probe), _HIGH)),
        count,
        f"At {', '.join(f'{s:g}' for s in scales)} times eps PGD leaves {rates}; {count} of "
        f"{len(probe)} images are broken by less and not by more.",
        "The attack fails where it has more room: it needs more steps, or its gradients are wrong.",
        probe.where(lost),
    )


def no_budget(probe: Probe) -> Check:
    """In a ball as wide as half the box every image can become the same grey one."""
    box = probe.case.clip
    if box is None:
        return skipped("without a budget", "There is no box, so no ball is as wide as all images.")
    middle = (box[0] + box[1]) / 2
    pixels = probe.x[:1].numel()
    eps = (box[1] - middle) * (1 if probe.case.norm == "linf" else pixels**0.5)
    attack = probe.pgd(steps=2 * probe.effort.steps, eps=eps, loss="margin", random_start=True)
    stands = ~probe.broken(attack)
    count = int(stands.sum())
    return Check(
        "without a budget",
        _verdict(several(count, len(probe), 0.1), several(count, len(probe), 0.02)),
        count,
        f"{count} of {len(probe)} images stand within {eps:g}, where every image can be made the "
        "same grey one.",
        "The attack does not reach what is surely there: its gradients are masked.",
        probe.where(stands),
    )


def more_steps(probe: Probe) -> Check:
    """Twice the steps must not gain much."""
    steps = probe.effort.steps
    short, long = probe.broken(probe.pgd()), probe.broken(probe.pgd(steps=2 * steps))
    gained = long & ~short
    count = int(gained.sum())
    return Check(
        "twice the steps",
        _verdict(False, several(count, len(probe), _HIGH)),
        count,
        f"{2 * steps} steps of PGD break {count} of {len(probe)} images that {steps} do not.",
        "The search has not converged: use a larger budget of the evaluation.",
        probe.where(gained),
    )


def more_restarts(probe: Probe) -> Check:
    """More random starts must not gain much."""
    count = probe.effort.restarts
    one = probe.broken(probe.pgd(random_start=True))
    many = probe.broken(probe.pgd(random_start=True, restarts=count))
    gained = many & ~one
    found = int(gained.sum())
    return Check(
        "more restarts",
        _verdict(False, several(found, len(probe), _HIGH)),
        found,
        f"{count} random starts of PGD break {found} of {len(probe)} images that one does not.",
        "The loss is rugged: use a larger budget of the evaluation.",
        probe.where(gained),
    )


def transfer(probe: Probe) -> Check:
    """Images made on another model must not do what an attack on this one cannot."""
    name = "transfer against gradients"
    if probe.case.transferred is None:
        return skipped(name, "No images of another model were given.")
    images = probe.case.transferred[probe.places].clone()
    eps = images.new_full((len(images),), probe.case.eps)
    into_ball(images, probe.x, eps, probe.case.norm, probe.case.clip)
    broken = probe.predict(images) != probe.y
    return _better(probe, name, "Images of another model break", broken)


def queries(probe: Probe) -> Check:
    """An attack that sees scores alone must not do what one with gradients cannot."""
    attack = Square(queries=probe.effort.queries, **probe.ball)
    said = f"{probe.effort.queries} queries without a gradient break"
    return _better(probe, "queries against gradients", said, probe.broken(attack))


def noise(probe: Probe) -> Check:
    """Random points of the ball must not do what an attack cannot."""
    draws, device = probe.effort.draws, probe.x.device
    broken = torch.zeros(len(probe), dtype=torch.bool, device=device)
    for draw in range(draws):
        rows = (~broken & ~probe.by_gradient).nonzero().flatten()
        if not len(rows):
            break
        x0 = probe.x[rows].contiguous()
        x, eps = torch.empty_like(x0), x0.new_full((len(rows),), probe.case.eps)
        number = torch.full_like(rows, draw)
        launch_start(
            x, x0, probe.case.norm, eps, probe.case.seed, probe.places[rows], number,
            *(probe.case.clip or (None, None)),
        )  # fmt: skip
        broken[rows] = probe.predict(x) != probe.y[rows]
    return _better(probe, "noise against gradients", f"{draws} random points break", broken)


def surrogates(probe: Probe) -> Check:
    """Smoother scores of the same decision must not lead further."""
    name, head = "surrogate heads", probe.model.head
    if head.activation != "tanh":
        return skipped(name, "The head has no tanh that could saturate.")
    attack = APGD(loss="margin", steps=probe.effort.steps, **probe.ball)
    plain = probe.broken(attack)
    others = [Surrogate(head, tanh=tanh) for tanh in ("bypass", "skip")]
    gained = torch.stack([probe.broken(attack, other) for other in others]).any(0) & ~plain
    count = int(gained.sum())
    return Check(
        name,
        _verdict(several(count, len(probe), 0.2), several(count, len(probe), 0.02)),
        count,
        f"Past the tanh an attack breaks {count} of {len(probe)} images that it does not break "
        "through it.",
        "Its units saturate: believe no attack that goes through tanh alone.",
        probe.where(gained),
    )


def scale(probe: Probe) -> Check:
    """Scores times ten are the same decisions."""
    attack = probe.pgd()
    heads = [Surrogate(probe.model.head, temperature=t) for t in (0.1, 1.0, 10.0)]
    broken = torch.stack([probe.broken(attack, head) for head in heads])
    rates = 1 - broken.float().mean(1)
    spread = float(rates.max() - rates.min())
    changed = broken.any(0) & ~broken.all(0)
    return Check(
        "scale of the scores",
        _verdict(False, spread > 2 * _HIGH),
        spread,
        f"With scores times 10, 1 and 0.1, PGD on the cross-entropy leaves "
        f"{', '.join(f'{rate:.2f}' for rate in rates.tolist())}.",
        "Cross-entropy depends on the scale of the scores here: believe attacks on margins alone.",
        probe.where(changed),
    )


def _better(probe: Probe, name: str, said: str, broken: Tensor) -> Check:
    """Compare an attack that sees less with attacks by gradient."""
    alone = broken & ~probe.by_gradient
    count = int(alone.sum())
    return Check(
        name,
        _verdict(several(count, len(probe), _HIGH), several(count, len(probe), 0.02)),
        count,
        f"{said} {count} of {len(probe)} images that attacks by gradient do not.",
        "Gradients are masked where something that does without them gets further.",
        probe.where(alone),
    )


def _verdict(fail: bool, warn: bool) -> Verdict:
    return "fail" if fail else "warn" if warn else "pass"
