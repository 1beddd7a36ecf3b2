"""The robust accuracy of a classifier: the worst case over many attacks, image by image.

Attacks run from the cheapest to the most expensive, each on the images not yet broken. The result
is the worst case per image: the lowest upper bound on the true robust accuracy that these attacks
give together.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..engine.opening import oracle
from ..engine.prepared import Model, prepare
from ..models.averaged import Averaged, is_random
from ..utils import checks
from ..utils.modules import in_its_dtype
from ..utils.progress import track
from .cache import Journal, digest
from .results import Evaluation
from .sanity.case import Case
from .sanity.checks import inspect
from .suite import lineup
from .threat_model import ThreatModel
from .worst_case import WorstCase


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
    """Return the robust accuracy under a suite of attacks, and checks of whether to believe it.

    A DenseNet of :mod:`fastrobust.models` is run by the fused engine. A random model, which gives
    different scores for the same images, is attacked and classified by its mean scores of 8 calls.

    Args:
        model: A Classifier, or any module or callable that returns (N, K) class scores.
        x: (N, ...) floating-point images inside `clip`.
        y: (N,) int64 labels.
        eps: Radius of the ball around each image, in pixel units and the units of `norm`.
        norm: ``"linf"`` or ``"l2"`` (not squared).
        budget: ``"quick"``, ``"standard"`` (at least AutoAttack's standard setting) or
            ``"thorough"``: see :mod:`fastrobust.evaluation.suite`.
        clip: Box of the pixels, or None for no box.
        seed: Seed of all random numbers. They are keyed by an image's index in x.
        transferred: Images (N, ...) that were made on other models. They are moved into ball and
            box, tried as they are and, where they come closest, used as starting points.
        out: Folder where finished parts are kept, so that an interrupted evaluation resumes; None
            keeps nothing.
        check: Whether to run the checks.
        progress: Whether to show progress on stderr.

    Raises:
        TypeError, ValueError, RuntimeError: As :meth:`fastrobust.attacks.PGD.run`; an unknown
            `norm` or `budget`; a model of one class.
        StoreError: `out` holds another evaluation, or a damaged file.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> x, y = torch.rand(8, 1, 2, 2), torch.randint(3, (8,))
        >>> result = evaluate(net, x, y, eps=0.5, budget="quick", check=False, progress=False)
        >>> result.robust_accuracy <= result.clean_accuracy
        True
    """
    x = checks.images(x).detach()
    x = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    if not len(x):
        raise ValueError("x must hold at least one image, got none")
    threat = ThreatModel(norm, float(eps), clip)
    given = [transferred] if isinstance(transferred, Tensor) else list(transferred)
    given = [checks.like(images, x, "transferred") for images in given]
    subject = prepare(model)
    if noisy := is_random(subject, in_its_dtype(subject, x[:16])):
        subject = prepare(Averaged(subject))
    with oracle(subject, x.device) as network:
        classes = network.num_classes(x)
        if classes < 2:
            raise ValueError("model must have at least two classes, got one")
        y = checks.labels(y, len(x), classes, x.device)
        stages = lineup(budget, threat, network.head, classes)
        stages[0].attack.check_box(x)
        facts = {
            "eps": threat.eps, "norm": norm, "budget": budget, "seed": seed,
            "clip": None if clip is None else list(clip), "averaged": noisy,
            "attacks": [f"{stage.name}: {stage.attack!r}" for stage in stages],
            "images": digest(x, y, *given), "weights": digest(*subject.state_dict().values()),
            # A callable may hold weights that nobody sees.
            "decisions": None if noisy else digest(network.decide(x[:64])[1]),
        }  # fmt: skip
        journal = Journal(None if out is None else Path(out) / "parts", facts)
        total = len(x) * (1 + len(given) + len(stages))
        with track(total, "evaluate", None if progress else io.StringIO()) as tracker:
            worst = WorstCase(
                subject, network, x, y, threat, seed=seed, journal=journal, tracker=tracker
            )
            done = [worst.try_images("images of another model", images) for images in given]
            done += [worst.attack(stage) for stage in stages]
    case = Case(
        model, x, y, threat, seed=seed, adv=worst.adv, broken=worst.broken,
        transferred=given[0] if given else None,
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
