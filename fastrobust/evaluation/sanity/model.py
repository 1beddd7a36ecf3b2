"""Checks of the model itself: what it answers, and what its gradients are worth."""

import copy
from functools import partial

import torch
from torch import Tensor

from ...engine.opening import oracle
from ...engine.prepared import Prepared, prepare
from ...models.averaged import is_random
from ...models.classifier import as_classifier
from ...utils.modules import evaluating, in_its_dtype
from .case import Check, Probe, skipped

_DIRECTIONS, _STEP = 8, 1e-3  # random directions of each image, and the way along them


def deterministic(probe: Probe) -> Check:
    """The same question must get the same answer."""
    with torch.no_grad(), evaluating(probe.model):
        plain = as_classifier(probe.case.model)
        random = is_random(plain, in_its_dtype(plain, probe.case.x[:16]))
    return Check(
        "the same answer",
        "fail" if random else "pass",
        float(random),
        "Five answers about the same images differ."
        if random
        else "Five answers about the same images are the same.",
        "A random model must be attacked and judged by its mean answer, over many draws.",
    )


def probabilities(probe: Probe) -> Check:
    """Scores must not be probabilities: their cross-entropy is flat."""
    name = "probabilities for scores"
    with torch.no_grad():
        scores = probe.model(in_its_dtype(probe.model, probe.case.x[:64]))
    inside = (scores >= 0).all(1) & (scores <= 1).all(1)
    share = float((inside & ((scores.sum(1) - 1).abs() < 1e-3)).float().mean())
    return Check(
        name,
        "warn" if share > 0.5 else "pass",
        share,
        f"{share:.0%} of the outputs lie in [0, 1] and sum to 1.",
        "Give the evaluation the logits: of probabilities the cross-entropy is nearly flat.",
    )


def agreement(probe: Probe) -> Check:
    """Loss and decision must be about the same scores, and the engine's about the model's."""
    x = probe.case.x[: 4 * probe.effort.images]
    plain = as_classifier(probe.case.model)
    with torch.no_grad(), evaluating(plain):
        own = plain(in_its_dtype(plain, x))
    top = own.topk(2, dim=1).values
    clear = (top[:, 0] - top[:, 1]) > 1e-4 * own.abs().amax(1)  # else rounding decides
    with oracle(probe.model, x.device) as network:
        answer = network.score(x, own.argmax(1), "margin", x.new_ones(len(x)))
        decision = network.decide(x)[1]
    wrong = (decision != own.argmax(1)) | (answer.decision != decision) | (answer.loss > 0)
    wrong &= clear
    count = int(wrong.sum())
    return Check(
        "loss and decision",
        "fail" if count else "pass",
        count,
        f"On {count} of {len(x)} images the decision is not the highest score, or the loss of an "
        "attack is about another one.",
        "The attack and the classifier must look at the same scores.",
        tuple(wrong.nonzero().flatten().tolist()),
    )


def gradients(probe: Probe) -> Check:
    """Gradients must be there: neither zero nor NaN, at the image and near it."""
    name = "gradients there"
    if not len(probe):
        return skipped(name, "The model gets no image right.")
    ones = probe.x.new_ones(len(probe))
    step = probe.pgd(steps=3, keep="last")
    near = step(probe.model, probe.x, probe.y, seed=probe.case.seed, index=probe.places)
    flags = {}
    with oracle(probe.model, probe.x.device) as network:
        for loss in ("ce", "margin"):
            grads = [network.gradient(x, probe.y, loss, ones).grad for x in (probe.x, near)]
            flags[loss] = torch.stack([_missing(grad) for grad in grads]).any(0)
    rates = {loss: float(missing.float().mean()) for loss, missing in flags.items()}
    worst = max(rates.values())
    return Check(
        name,
        "fail" if worst > 0.25 else "warn" if worst > 0.02 else "pass",
        worst,
        f"The gradient is zero or NaN on {rates['ce']:.0%} of {len(probe)} images for the "
        f"cross-entropy, on {rates['margin']:.0%} for the margin.",
        "Where there is no gradient only queries, transfer or another loss find a way.",
        probe.where(flags["ce"] | flags["margin"]),
    )


def dead_classes(probe: Probe) -> Check:
    """Every class must have a gradient that an attack could follow to it.

    A decoder that clamps correlations at zero has none for most classes (Tramer et al., arXiv
    2002.08347, section 5.1, on error-correcting codes).
    """
    name = "a way to every class"
    if not len(probe):
        return skipped(name, "The model gets no image right.")
    x, y = probe.x[:32], probe.y[:32]
    ones = x.new_ones(len(x))
    dead = []
    with oracle(probe.model, x.device) as network:
        for offset in range(1, min(network.num_classes(x), 10)):
            rival = (y + offset) % network.num_classes(x)
            answer = network.gradient(x, y, partial(_score_of, rival), ones)
            dead.append(_missing(answer.grad))
    flags = torch.stack(dead)
    share = float(flags.float().mean())
    return Check(
        name,
        "fail" if share > 0.25 else "warn" if share > 0.02 else "pass",
        share,
        f"{share:.0%} of the wrong classes' scores have no gradient at {len(x)} images.",
        "The scores are clamped before they are read: attack what is before the clamp.",
        probe.where(_padded(flags.any(0), len(probe))),
    )


def saturation(probe: Probe) -> Check:
    """Say how many tanh units are at their ends."""
    name = "saturated units"
    if probe.model.head.activation != "tanh":
        return skipped(name, "The head has no tanh.")
    with torch.no_grad():
        units = probe.model.units(in_its_dtype(probe.model, probe.case.x[:256]))
    share = float((units.abs() > 0.99).float().mean())
    return Check(
        name,
        "warn" if share > 0.5 else "pass",
        share,
        f"{share:.0%} of the units are beyond 0.99.",
        "Their gradients are faint: attack past the tanh as well.",
    )


def finite_differences(probe: Probe) -> Check:
    """The gradient must say how the loss changes."""
    name = "finite differences"
    if not len(probe):
        return skipped(name, "The model gets no image right.")
    with torch.no_grad():
        predicted, actual = _changes(probe, _STEP)
        wide = _changes(probe, probe.case.eps / 2)[1] if probe.case.norm == "linf" else actual
    if not predicted.any():
        there = bool((wide != 0).any())
        found = "The gradient is zero in all of them" + (
            ", the loss does change." if there else "."
        )
        return Check(name, "fail" if there else "pass", 0.0, found, _ADVICE)
    number = _correlation(predicted, actual)
    return Check(
        name,
        "fail" if not number > 0.8 else "warn" if number < 0.98 else "pass",
        number,
        f"Along {predicted.numel()} random directions the change that the gradient says and the "
        f"one that there is have a correlation of {number:.3f}.",
        _ADVICE,
    )


_ADVICE = "The model's gradient is not that of its scores: estimate it, or attack by queries."


def _changes(probe: Probe, step: float) -> tuple[Tensor, Tensor]:
    """Return the changes of the margin that gradients say and those that there are, (n, D).

    In float64 where the model can: differences of float32 are rounding.
    """
    model, x, y = _doubled(probe)
    generator = torch.Generator(x.device).manual_seed(probe.case.seed)
    ones = x.new_ones(len(x))
    predicted, actual = [], []
    with oracle(model, x.device) as network:
        gradient = network.gradient(x, y, "margin", ones).grad.flatten(1)
        for _ in range(_DIRECTIONS):
            signs = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 0.5
            move = signs.sign() * step
            ends = [network.score(x + sign * move, y, "margin", ones).loss for sign in (1, -1)]
            actual.append((ends[0] - ends[1]) / 2)
            predicted.append((gradient * move.flatten(1)).sum(1))
    return torch.stack(predicted, 1).double(), torch.stack(actual, 1).double()


def _doubled(probe: Probe) -> tuple[Prepared, Tensor, Tensor]:
    """Return model, images and labels in float64; as they are if the model cannot."""
    x, y = probe.x[:32], probe.y[:32]
    try:
        model = copy.deepcopy(as_classifier(probe.case.model)).double()
        with torch.no_grad(), evaluating(model):
            model(x.double())
    except Exception:  # whatever a caller's module raises about another dtype
        return probe.model, x, y
    return prepare(model), x.double(), y


def _score_of(rival: Tensor, scores: Tensor, y: Tensor) -> Tensor:
    return scores.gather(1, rival[:, None])[:, 0]


def _padded(flags: Tensor, count: int) -> Tensor:
    return torch.cat([flags, flags.new_zeros(count - len(flags))])


def _missing(grad: Tensor) -> Tensor:
    rows = grad.flatten(1)
    return (rows == 0).all(1) | ~rows.isfinite().all(1)


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = one.flatten() - one.mean(), other.flatten() - other.mean()
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-300))
