"""The robust accuracy that an expert attacker would leave, image by image.

Attacks are run from the cheapest to the dearest, each on the images that still stand; an image is
lost as soon as one of them gets it. So the result is the pointwise worst case over all of them: the
lowest upper bound on the true robust accuracy that they give together.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import engine
from ..engine.prepared import Model
from ..models.averaged import Averaged, is_random
from ..utils import checks
from ..utils.modules import in_its_dtype
from ..utils.progress import track
from ..utils.stats import wilson
from .cache import Journal, digest
from .sanity.checks import Case, Check, inspect
from .suite import lineup
from .worst_case import Contribution, WorstCase


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`evaluate` found for N images.

    Attributes:
        adv: (N, ...) for each broken image the one that broke it, otherwise the one that came
            closest; x itself where the clean image is misclassified.
        decision: (N,) int64 what the model decides on `adv`, -1 where it gives NaN.
        correct: (N,) bool, whether the clean image is decided as its label.
        broken: (N,) bool, whether it is misclassified or an attack got it.
        broken_by: (N,) int64 place in `contributions` of the attack that did, -1 for none.
        queries: (N,) int64 forwards and backwards that it cost.
        contributions: What each attack did, in order.
        checks: Reasons to believe the result or not.
        facts: eps, norm, budget, seed, clip and versions.
    """

    adv: Tensor
    decision: Tensor
    correct: Tensor
    broken: Tensor
    broken_by: Tensor
    queries: Tensor
    contributions: tuple[Contribution, ...]
    checks: tuple[Check, ...]
    facts: dict[str, Any]

    @property
    def clean_accuracy(self) -> float:
        """Share of images that the model gets right."""
        return float(self.correct.double().mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of images that it gets right and no attack got: an upper bound of the true one."""
        return float((~self.broken).double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the robust accuracy: of the choice of images alone."""
        return wilson(int((~self.broken).sum()), len(self.broken))

    @property
    def believable(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict != "fail" for check in self.checks)

    def __repr__(self) -> str:
        low, high = self.interval
        doubts = [check for check in self.checks if check.verdict in ("warn", "fail")]
        flags = [f"{check.name} ({check.verdict})" for check in doubts]
        return (
            f"Evaluation(robust_accuracy={self.robust_accuracy:.4f} [{low:.4f}, {high:.4f}], "
            f"clean_accuracy={self.clean_accuracy:.4f}, images={len(self.broken)}, "
            f"flags={', '.join(flags) or 'none'})"
        )


def evaluate(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: str = "linf",
    budget: str = "standard",
    *,
    clip: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    transferred: Tensor | Sequence[Tensor] = (),
    out: str | os.PathLike[str] | None = None,
    check: bool = True,
    progress: bool = True,
) -> Evaluation:
    """Attack every image with everything, and say whether the result can be believed.

    A DenseNet of :mod:`fastrobust.models` is run by the fused engine. A model that answers
    differently each time is attacked, and judged, by the mean scores of 8 answers.

    Args:
        model: A Classifier, or any module or callable that returns (N, K) class scores.
        x: (N, ...) floating-point images inside `clip`.
        y: (N,) int64 labels.
        eps: Radius of the ball around each image, in pixel units and the units of `norm`.
        norm: ``"linf"`` or ``"l2"`` (not squared).
        budget: ``"quick"``, ``"standard"`` (at least AutoAttack's standard setting) or
            ``"thorough"``: see :mod:`fastrobust.lineup`.
        clip: Box of the pixels, or None for no box.
        seed: Of all random numbers. They are keyed by an image's place in x.
        transferred: Images (N, ...) that were made on other models; they are moved into ball and
            box, tried as they are and, where they come closest, as starting points.
        out: A folder where finished parts are kept, so that a killed evaluation goes on there;
            None keeps nothing.
        check: Whether to look for reasons not to believe the result.
        progress: Whether to show on stderr how far it is.

    Raises:
        TypeError, ValueError, RuntimeError: As :meth:`fastrobust.attacks.PGD.run`; an unknown
            word; a model of one class.
        StoreError: `out` holds another evaluation, or a damaged file.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> x, y = torch.rand(8, 1, 2, 2), torch.randint(3, (8,))
        >>> found = evaluate(net, x, y, eps=0.5, budget="quick", check=False, progress=False)
        >>> found.robust_accuracy <= found.clean_accuracy
        True
    """
    x = checks.images(x).detach()
    x = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    if not len(x):
        raise ValueError("x must hold at least one image, got none")
    eps = float(eps)
    checks.per_row(eps, x, "eps", positive=True)
    if norm not in ("linf", "l2"):
        raise ValueError(f'norm must be "linf" or "l2", got {norm!r}')
    given = [transferred] if isinstance(transferred, Tensor) else list(transferred)
    given = [checks.like(images, x, "transferred") for images in given]
    subject = engine.prepare(model)
    if noisy := is_random(subject, in_its_dtype(subject, x[:16])):
        subject = engine.prepare(Averaged(subject))
    with engine.oracle(subject, x.device) as network:
        classes = network.num_classes(x)
        if classes < 2:
            raise ValueError("model must have at least two classes, got one")
        y = checks.labels(y, len(x), classes, x.device)
        stages = lineup(budget, eps, norm, network.head, classes, clip)
        stages[0].attack.check_box(x)
        facts = {
            "eps": eps, "norm": norm, "budget": budget, "seed": seed,
            "clip": None if clip is None else list(clip), "averaged": noisy,
            "attacks": [f"{stage.name}: {stage.attack!r}" for stage in stages],
            "images": digest(x, y, *given), "weights": digest(*subject.state_dict().values()),
            # A callable may hold weights that nobody sees.
            "decisions": None if noisy else digest(network.decide(x[:64])[1]),
        }  # fmt: skip
        journal = Journal(None if out is None else Path(out) / "parts", facts)
        total = len(x) * (1 + len(given) + len(stages))
        with track(total, "evaluate", None if progress else io.StringIO()) as tracker:
            worst = WorstCase(subject, network, x, y, eps, norm, clip, seed, journal, tracker)
            done = [worst.try_images("images of another model", images) for images in given]
            done += [worst.attack(stage) for stage in stages]
    case = Case(
        model=model, x=x, y=y, eps=eps, norm=norm, clip=clip, seed=seed, adv=worst.adv,
        broken=worst.broken, transferred=given[0] if given else None,
    )  # fmt: skip
    return Evaluation(
        adv=worst.adv,
        decision=worst.decision,
        correct=worst.correct,
        broken=worst.broken,
        broken_by=worst.broken_by,
        queries=worst.queries,
        contributions=tuple(done),
        checks=tuple(inspect(case, budget, progress)) if check else (),
        facts=facts,
    )
