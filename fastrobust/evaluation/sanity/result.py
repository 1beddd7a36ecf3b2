"""Checks of what an evaluation returns: are the images what it says, and does the verdict hold?"""

import copy

import torch
from torch import Tensor

from ... import engine
from ...attacks import APGD
from ...models.classifier import as_classifier
from ...utils.modules import evaluating, in_its_dtype
from .case import Check, Probe, several, skipped

_NO_RESULT = "There is no evaluation to look at."


def inside(probe: Probe) -> Check:
    """Returned images must be in ball and box."""
    name, case = "ball and box", probe.case
    if case.adv is None:
        return skipped(name, _NO_RESULT)
    change = (case.adv.double() - case.x.double()).flatten(1)
    size = change.abs().amax(1) if case.norm == "linf" else change.norm(dim=1)
    out = size > case.eps * (1 + 1e-5) + 1e-6
    if case.clip is not None:
        pixels = case.adv.flatten(1)
        out |= (pixels < case.clip[0]).any(1) | (pixels > case.clip[1]).any(1)
    count = int(out.sum())
    return Check(
        name,
        "fail" if count else "pass",
        count,
        f"{count} of {len(out)} images lie outside; the largest change is {float(size.max()):.6g} "
        f"of {case.eps:g}.",
        "An image outside of the ball proves nothing.",
        tuple(out.nonzero().flatten().tolist()),
    )


def eight_bits(probe: Probe) -> Check:
    """Broken images must stay broken as files of 8 bits."""
    name, case = "8 bits", probe.case
    if case.adv is None or case.broken is None:
        return skipped(name, _NO_RESULT)
    if case.clip != (0.0, 1.0):
        return skipped(name, "Pixels are not in [0, 1].")
    places = _attacked(probe)
    if not len(places):
        return skipped(name, "No attack broke an image.")
    low, high = (torch.clamp(case.x[places] + side * case.eps, 0, 1) for side in (-1, 1))
    levels = (case.adv[places] * 255).round()
    if case.norm == "linf":  # not across the edge of the ball
        levels = torch.minimum(torch.maximum(levels, (low * 255).ceil()), (high * 255).floor())
    lost = probe.predict((levels / 255).to(case.x.dtype)) == case.y[places]
    share = float(lost.float().mean())
    return Check(
        name,
        "warn" if several(int(lost.sum()), len(lost), 0.05) else "pass",
        share,
        f"Rounded to 8 bits, {int(lost.sum())} of {len(lost)} broken images are right again.",
        "A camera or a file would undo these: say for which images the number holds.",
        tuple(places[lost].tolist()),
    )


def again(probe: Probe) -> Check:
    """The verdict must not hang on the batch, the engine or the precision."""
    name, case = "the verdict again", probe.case
    if case.adv is None:
        return skipped(name, _NO_RESULT)
    some = slice(probe.effort.images)
    adv = case.adv[some]
    whole = probe.predict(adv)
    flips = {"alone": torch.cat([probe.predict(image[None]) for image in adv]) != whole}
    plain = as_classifier(case.model)
    flips["by PyTorch"] = plain.predict(in_its_dtype(plain, adv)) != whole
    try:
        exact = copy.deepcopy(plain).double()
        with torch.no_grad(), evaluating(exact):
            flips["in float64"] = exact.predict(adv.double()) != whole
    except Exception:  # whatever a caller's module raises about another dtype
        pass
    flipped = torch.stack(list(flips.values())).any(0)
    count = int(flipped.sum())
    counts = ", ".join(f"{int(found.sum())} {how}" for how, found in flips.items())
    return Check(
        name,
        "fail" if several(count, len(adv), 0.05) else "warn" if count else "pass",
        count,
        f"Of {len(adv)} decisions flip: {counts}.",
        "Rounding decides about these images: attacks that stop at the boundary are not enough.",
        tuple(flipped.nonzero().flatten().tolist()),
    )


def one_attack(probe: Probe) -> Check:
    """Say how far one good attack is from all of them."""
    name, case = "the worst case", probe.case
    if case.broken is None:
        return skipped(name, _NO_RESULT)
    alone = probe.broken(APGD(steps=probe.effort.steps, **probe.ball))
    missed = case.broken[probe.places] & ~alone
    count = int(missed.sum())
    return Check(
        name,
        "warn" if several(count, len(probe), 0.1) else "pass",
        count,
        f"All attacks together break {count} of {len(probe)} images that APGD on the cross-entropy "
        "does not.",
        "No single attack is enough for this model: quote the worst case over all of them.",
        probe.where(missed),
    )


def last_iterate(probe: Probe) -> Check:
    """An attack must return what it found on the way, and must have arrived."""
    last, best = probe.broken(probe.pgd(keep="last")), probe.broken(probe.pgd())
    silent = best & ~last
    count = int(silent.sum())
    return Check(
        "success on the way",
        "warn" if several(count, len(probe), 0.05) else "pass",
        count,
        f"PGD passes through a success and leaves it again on {count} of {len(probe)} images.",
        "Keep the best iterate: the last one makes the model look better.",
        probe.where(silent),
    )


def rising(probe: Probe) -> Check:
    """The loss must not still be rising when the attack ends."""
    name = "loss at the end"
    stands = (~probe.broken(probe.pgd(loss="margin"))).nonzero().flatten()
    if not len(stands):
        return skipped(name, "No image stands.")
    margins = [_margin(probe, stands, steps) for steps in (1, 2)]
    start = _margin(probe, stands, 0)
    rise = (margins[1] - margins[0]) / (margins[1] - start).clamp_min(1e-12)
    slow = rise > 0.1
    share = float(slow.float().mean())
    return Check(
        name,
        "warn" if share > 0.25 and len(stands) >= 3 else "pass",
        share,
        f"On {share:.0%} of {len(stands)} standing images the second half of the steps makes more "
        "than a tenth of the way.",
        "The search has not converged: use a larger budget of the evaluation.",
        tuple(probe.places[stands[slow]].tolist()),
    )


def _margin(probe: Probe, rows: Tensor, times: int) -> Tensor:
    """Margins (n,) that PGD reaches in so many times the steps."""
    x, y = probe.x[rows], probe.y[rows]
    if times:
        attack = probe.pgd(steps=times * probe.effort.steps, loss="margin")
        x = attack(probe.model, x, y, seed=probe.case.seed, index=probe.places[rows])
    with engine.oracle(probe.model, x.device) as network:
        return network.score(x, y, "margin", x.new_ones(len(x))).loss


def _attacked(probe: Probe) -> Tensor:
    """Places of images that an attack broke."""
    case = probe.case
    assert case.adv is not None and case.broken is not None
    moved = (case.adv != case.x).flatten(1).any(1)
    return (case.broken & moved).nonzero().flatten()
