"""Checks that compare two attacks: the weaker one must not do better.

Athalye, Carlini and Wagner (arXiv 1802.00420, section 3.1) and Carlini et al. (arXiv 1902.06705,
section 4) list these signs of masked gradients.
"""

import torch
from torch import Tensor

from ...attacks.apgd import APGD
from ...attacks.square import Square
from ...models.heads import Surrogate
from ...utils.modules import in_its_dtype
from ..comparisons import MISSED, beats, survivors
from ..results import Check
from .case import Probe, counted, share_of, skipped, survival


def one_step(probe: Probe) -> Check:
    """One step must not break what many steps do not."""
    one, many = probe.one_step, probe.broken(probe.pgd())
    return counted(
        "one step against many", one & ~many,
        f"One step breaks {{}} that {probe.size.steps} steps do not.",
        "Gradients along the way are wrong or lead nowhere: attack by queries and by transfer.",
        beats(survival(one), survival(many)), probe.indices,
    )  # fmt: skip


def larger_eps(probe: Probe) -> Check:
    """A larger ball contains the smaller one, so PGD must not break fewer images in it."""
    scales = (0.25, 0.5, 1.0, 2.0)
    broken = [probe.broken(probe.pgd(eps=scale * probe.threat.eps)) for scale in scales]
    pairs = list(zip(broken, broken[1:], strict=False))
    lost = torch.stack([small & ~large for small, large in pairs]).any(0)
    verdicts = {beats(survival(small), survival(large)) for small, large in pairs}
    left = ", ".join(f"{1 - float(flags.float().mean()):.2f}" for flags in broken)
    return counted(
        "larger eps", lost,
        f"At {', '.join(f'{s:g}' for s in scales)} times eps, accuracy under PGD is {left}; "
        "{} are broken at a smaller eps and not at a larger one.",
        "PGD fails at a larger eps: it needs more steps, or the gradients are wrong.",
        "fail" if "fail" in verdicts else share_of(lost, warn=MISSED), probe.indices,
    )  # fmt: skip


def unbounded_eps(probe: Probe) -> Check:
    """In a ball as wide as half the box every image can become the same grey one."""
    name, box = "unbounded eps", probe.threat.clip
    if box is None:
        return skipped(name, "There is no box, so no ball contains all images.")
    if not len(probe):
        return skipped(name, "The model classifies no image correctly.")
    middle = (box[0] + box[1]) / 2
    pixels = probe.x[:1].numel()
    eps = (box[1] - middle) * (1 if probe.threat.norm == "linf" else pixels**0.5)
    attack = probe.pgd(steps=2 * probe.size.steps, eps=eps, loss="margin", random_start=True)
    broken = probe.broken(attack)
    grey = torch.full_like(probe.x[:1], middle)
    with torch.no_grad():
        scores = probe.model(in_its_dtype(probe.model, grey))
    # Images that share the label of the grey one may survive there.
    guess = max(1 / scores.shape[1], float((probe.y == scores.argmax(1)).float().mean()))
    return counted(
        name, ~broken,
        f"{{}} survive within {eps:g}, where every image can be made the same grey one.",
        "The attack misses adversarial images that exist: the gradients are masked.",
        survivors(survival(broken), guess), probe.indices,
    )  # fmt: skip


def more_steps(probe: Probe) -> Check:
    """Twice the steps must not gain much."""
    steps = probe.size.steps
    gained = probe.broken(probe.pgd(steps=2 * steps)) & ~probe.broken(probe.pgd())
    return counted(
        "twice the steps", gained,
        f"{2 * steps} steps of PGD break {{}} that {steps} do not.",
        "The attack has not converged: evaluate with a larger budget.",
        share_of(gained, warn=MISSED), probe.indices,
    )  # fmt: skip


def more_restarts(probe: Probe) -> Check:
    """More random starts must not gain much."""
    restarts = probe.size.restarts
    one = probe.broken(probe.pgd(random_start=True))
    gained = probe.broken(probe.pgd(random_start=True, restarts=restarts)) & ~one
    return counted(
        "more restarts", gained,
        f"PGD with {restarts} random starts breaks {{}} that one start does not.",
        "The loss surface is rugged: evaluate with a larger budget.",
        share_of(gained, warn=MISSED), probe.indices,
    )  # fmt: skip


def transfer(probe: Probe) -> Check:
    """Images made on another model must not break what an attack on this one cannot."""
    name = "transfer against gradients"
    if probe.case.transferred is None:
        return skipped(name, "No images of another model were given.")
    images = probe.threat.project(probe.case.transferred[probe.indices].clone(), probe.x)
    broken = probe.predict(images) != probe.y
    return _against_gradients(probe, name, "Images of another model break", broken)


def queries(probe: Probe) -> Check:
    """An attack that sees scores alone must not break what one with gradients cannot."""
    attack = Square(queries=probe.size.queries, **probe.threat.fields)
    words = f"{probe.size.queries} queries without a gradient break"
    return _against_gradients(probe, "queries against gradients", words, probe.broken(attack))


def noise(probe: Probe) -> Check:
    """Random points of the ball must not break what an attack cannot."""
    draws = probe.size.draws
    broken = torch.zeros(len(probe), dtype=torch.bool, device=probe.x.device)
    for draw in range(draws):
        rows = (~broken & ~probe.by_gradient).nonzero().flatten()
        if not len(rows):
            break
        number = torch.full_like(rows, draw)
        x = probe.threat.draw(probe.x[rows], probe.case.seed, probe.indices[rows], number)
        broken[rows] = probe.predict(x) != probe.y[rows]
    words = f"{draws} random points break"
    return _against_gradients(probe, "noise against gradients", words, broken)


def surrogates(probe: Probe) -> Check:
    """Smoother scores with the same decision must not lead to more broken images."""
    name, head = "surrogate heads", probe.model.head
    if head.activation != "tanh":
        return skipped(name, "The head has no tanh that could saturate.")
    attack = APGD(loss="margin", steps=probe.size.steps, **probe.threat.fields)
    others = [Surrogate(head, tanh=tanh) for tanh in ("bypass", "skip")]
    gained = torch.stack([probe.broken(attack, other) for other in others]).any(0)
    gained &= ~probe.broken(attack)
    return counted(
        name, gained, "Bypassing the tanh, an attack breaks {} that it does not break through it.",
        "The units saturate: do not rely on attacks through the tanh alone.",
        share_of(gained, fail=0.2, warn=0.02), probe.indices,
    )  # fmt: skip


def scale(probe: Probe) -> Check:
    """Scores times ten are the same decisions."""
    attack = probe.pgd()
    heads = [Surrogate(probe.model.head, temperature=t) for t in (0.1, 1.0, 10.0)]
    broken = torch.stack([probe.broken(attack, head) for head in heads])
    rates = 1 - broken.float().mean(1)
    spread = float(rates.max() - rates.min())
    left = ", ".join(f"{rate:.2f}" for rate in rates.tolist())
    return Check(
        "scale of the scores",
        "warn" if spread > 2 * MISSED else "pass",
        spread,
        f"With scores times 10, 1 and 0.1, accuracy under PGD on the cross-entropy is {left}.",
        "The cross-entropy depends on the scale of the scores here: rely on margin losses.",
        probe.where(broken.any(0) & ~broken.all(0)),
    )


def _against_gradients(probe: Probe, name: str, words: str, broken: Tensor) -> Check:
    """Compare an attack that has no gradients of the model with attacks by gradient."""
    return counted(
        name, broken & ~probe.by_gradient, f"{words} {{}} that attacks by gradient do not.",
        "The gradients are masked: an attack that does not need them gets further.",
        beats(survival(broken), survival(probe.by_gradient), blind=True), probe.indices,
    )  # fmt: skip
