"""Checks of what an evaluation returns: its images, its decisions, and its attacks' progress."""

import copy

import torch
from torch import Tensor

from ...attacks.apgd import APGD
from ...engine.opening import oracle
from ...models.classifier import as_classifier
from ...utils.modules import evaluating, in_its_dtype
from ..comparisons import MISSED
from ..results import Check
from .case import Probe, counted, share_of, skipped

_NO_RESULT = "No evaluation was given."


def inside(probe: Probe) -> Check:
    """Returned images must be in ball and box."""
    name, case = "ball and box", probe.case
    if case.adv is None:
        return skipped(name, _NO_RESULT)
    change = (case.adv.double() - case.x.double()).flatten(1)
    size = change.abs().amax(1) if case.threat.norm == "linf" else change.norm(dim=1)
    out = size > case.threat.eps * (1 + 1e-5) + 1e-6
    if case.threat.clip is not None:
        pixels = case.adv.flatten(1)
        out |= (pixels < case.threat.clip[0]).any(1) | (pixels > case.threat.clip[1]).any(1)
    return counted(
        name, out,
        f"{{}} lie outside; the largest change is {float(size.max()):.6g}, eps is "
        f"{case.threat.eps:g}.",
        "An image outside the ball proves nothing.",
        "fail" if out.any() else "pass",
    )  # fmt: skip


def eight_bits(probe: Probe) -> Check:
    """Adversarial images must stay adversarial with 8 bits a pixel."""
    name, case = "8 bits", probe.case
    if case.adv is None or case.broken is None:
        return skipped(name, _NO_RESULT)
    if case.threat.clip != (0.0, 1.0):
        return skipped(name, "Pixels are not in [0, 1].")
    rows = _attacked(probe)
    if not len(rows):
        return skipped(name, "No attack broke an image.")
    low, high = (torch.clamp(case.x[rows] + side * case.threat.eps, 0, 1) for side in (-1, 1))
    levels = (case.adv[rows] * 255).round()
    if case.threat.norm == "linf":  # stay inside the ball
        levels = torch.minimum(torch.maximum(levels, (low * 255).ceil()), (high * 255).floor())
    lost = probe.predict((levels / 255).to(case.x.dtype)) == case.y[rows]
    share = float(lost.float().mean())
    return Check(
        name,
        share_of(lost, warn=MISSED),
        share,
        f"Rounded to 8 bits, {int(lost.sum())} of {len(lost)} adversarial images are classified "
        "correctly again.",
        "Saving these images undoes the attack: state that the accuracy is for unrounded images.",
        tuple(rows[lost].tolist()),
    )


def again(probe: Probe) -> Check:
    """Decisions must not depend on the batch, the engine or the precision."""
    name, case = "same decisions again", probe.case
    if case.adv is None:
        return skipped(name, _NO_RESULT)
    some = slice(probe.size.images)
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
    counts = ", ".join(f"{int(flags.sum())} {how}" for how, flags in flips.items())
    return counted(
        name, flipped, f"Decisions change on {{}}: {counts}.",
        "Rounding decides about these images: attacks that stop at the boundary are not enough.",
        share_of(flipped, fail=MISSED, warn=0, few=1),
    )  # fmt: skip


def one_attack(probe: Probe) -> Check:
    """Report how far one good attack is from all of them."""
    name, case = "one attack against all", probe.case
    if case.broken is None:
        return skipped(name, _NO_RESULT)
    alone = probe.broken(APGD(steps=probe.size.steps, **probe.threat.fields))
    missed = case.broken[probe.indices] & ~alone
    return counted(
        name, missed,
        "All attacks together break {} that APGD on the cross-entropy does not.",
        "No single attack is enough for this model: quote the worst case over all of them.",
        share_of(missed, warn=0.1), probe.indices,
    )  # fmt: skip


def last_iterate(probe: Probe) -> Check:
    """The last iterate of PGD must be as good as its best one."""
    last, best = probe.broken(probe.pgd(keep="last")), probe.broken(probe.pgd())
    silent = best & ~last
    return counted(
        "last iterate against best", silent,
        "PGD passes an adversarial image and leaves it again on {}.",
        "Keep the best iterate: the last one makes the model look better.",
        share_of(silent, warn=MISSED), probe.indices,
    )  # fmt: skip


def rising(probe: Probe) -> Check:
    """The loss must not still be rising when the attack ends."""
    name = "loss at the last step"
    unbroken = (~probe.broken(probe.pgd(loss="margin"))).nonzero().flatten()
    if not len(unbroken):
        return skipped(name, "PGD breaks every image.")
    margins = [_margin(probe, unbroken, steps) for steps in (1, 2)]
    start = _margin(probe, unbroken, 0)
    rise = (margins[1] - margins[0]) / (margins[1] - start).clamp_min(1e-12)
    slow = rise > 0.1
    share = float(slow.float().mean())
    return Check(
        name,
        "warn" if share > 0.25 and len(unbroken) >= 3 else "pass",
        share,
        f"On {share:.0%} of {len(unbroken)} images that PGD does not break, the second half of the "
        "steps gains more than a tenth of the rise of the loss.",
        "The attack has not converged: evaluate with a larger budget.",
        tuple(probe.indices[unbroken[slow]].tolist()),
    )


def _margin(probe: Probe, rows: Tensor, times: int) -> Tensor:
    """Return the margins (n,) that PGD reaches in `times` the steps."""
    x, y = probe.x[rows], probe.y[rows]
    if times:
        attack = probe.pgd(steps=times * probe.size.steps, loss="margin")
        x = attack(probe.model, x, y, seed=probe.case.seed, index=probe.indices[rows])
    with oracle(probe.model, x.device) as network:
        return network.score(x, y, "margin", x.new_ones(len(x))).loss


def _attacked(probe: Probe) -> Tensor:
    """Return the indices of the images that an attack broke."""
    case = probe.case
    assert case.adv is not None and case.broken is not None
    moved = (case.adv != case.x).flatten(1).any(1)
    return (case.broken & moved).nonzero().flatten()
