"""Checks of the model itself: its scores, its decisions and its gradients."""

import copy
from functools import partial

import torch
from torch import Tensor

from ...engine.opening import oracle
from ...engine.prepared import Prepared, prepare
from ...models.averaged import is_random
from ...models.classifier import as_classifier
from ...utils.modules import evaluating, in_its_dtype
from ..results import Check
from .case import Probe, counted, skipped

_DIRECTIONS, _STEP = 8, 1e-3  # random directions of each image, and the step along them


def deterministic(probe: Probe) -> Check:
    """The same images must get the same scores each time."""
    with torch.no_grad(), evaluating(probe.model):
        plain = as_classifier(probe.case.model)
        random = is_random(plain, in_its_dtype(plain, probe.case.x[:16]))
    return Check(
        "same scores each time",
        "fail" if random else "pass",
        float(random),
        f"Five calls with the same images give {'different' if random else 'the same'} scores.",
        "Attack and evaluate a random model by its mean scores over many calls.",
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
        "Evaluate the logits: the cross-entropy of probabilities is nearly flat.",
    )


def agreement(probe: Probe) -> Check:
    """Loss and decision must use the same scores, and the engine the scores of the model."""
    x = probe.case.x[: 4 * probe.size.images]
    plain = as_classifier(probe.case.model)
    with torch.no_grad(), evaluating(plain):
        scores = plain(in_its_dtype(plain, x))
    top = scores.topk(2, dim=1).values
    clear = (top[:, 0] - top[:, 1]) > 1e-4 * scores.abs().amax(1)  # else rounding decides
    with oracle(probe.model, x.device) as network:
        answer = network.score(x, scores.argmax(1), "margin", x.new_ones(len(x)))
        decision = network.decide(x)[1]
    wrong = (decision != scores.argmax(1)) | (answer.decision != decision) | (answer.loss > 0)
    wrong &= clear
    return counted(
        "loss and decision", wrong,
        "On {} the decision is not the highest score, or the loss is about another class.",
        "The attack and the classifier must use the same scores.",
        "fail" if wrong.any() else "pass",
    )  # fmt: skip


def gradients(probe: Probe) -> Check:
    """Gradients must be neither zero nor NaN, at the image and near it."""
    name = "gradients present"
    if not len(probe):
        return skipped(name, "The model classifies no image correctly.")
    ones = probe.x.new_ones(len(probe))
    step = probe.pgd(steps=3, keep="last")
    near = step(probe.model, probe.x, probe.y, seed=probe.case.seed, index=probe.indices)
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
        "Where there is no gradient, attack by queries, by transfer or on another loss.",
        probe.where(flags["ce"] | flags["margin"]),
    )


def dead_classes(probe: Probe) -> Check:
    """The score of every class must have a gradient that an attack can follow.

    A decoder that clamps correlations at zero has none for most classes (Tramer et al., arXiv
    2002.08347, section 5.1, on error-correcting codes).
    """
    name = "gradients of every class"
    if not len(probe):
        return skipped(name, "The model classifies no image correctly.")
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
        "The scores are clamped: attack what comes before the clamp.",
        probe.where(_padded(flags.any(0), len(probe))),
    )


def saturation(probe: Probe) -> Check:
    """Report how many tanh units saturate."""
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
        "Their gradients are small: attack with the tanh bypassed as well.",
    )


def finite_differences(probe: Probe) -> Check:
    """The gradient must predict how the loss changes."""
    name = "finite differences"
    if not len(probe):
        return skipped(name, "The model classifies no image correctly.")
    with torch.no_grad():
        predicted, actual = _changes(probe, _STEP)
        wide = _changes(probe, probe.threat.eps / 2)[1] if probe.threat.norm == "linf" else actual
    if not predicted.any():
        changes = bool((wide != 0).any())
        text = f"The gradient is zero at every image{', but the loss changes' * changes}."
        return Check(name, "fail" if changes else "pass", 0.0, text, _ADVICE)
    number = _correlation(predicted, actual)
    return Check(
        name,
        "fail" if not number > 0.8 else "warn" if number < 0.98 else "pass",
        number,
        f"Along {predicted.numel()} random directions, the predicted and the actual change of the "
        f"loss have a correlation of {number:.3f}.",
        _ADVICE,
    )


_ADVICE = "The gradient is not that of the scores: estimate it, or attack by queries."


def _changes(probe: Probe, step: float) -> tuple[Tensor, Tensor]:
    """Return the predicted and the actual changes of the margin, each (n, D).

    In float64 where the model allows it: differences in float32 are rounding.
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
    """Return model, images and labels in float64; unchanged if the model refuses it."""
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
