"""What a caller uses of an attack: a frozen set of scalars that can be called and run.

What an attack implements is in ``rule.py``.
"""

import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..engine import scheduler
from ..engine.gradients import Oracle
from ..engine.objectives import label_vectors
from ..engine.opening import oracle
from ..engine.prepared import Model
from ..engine.score_losses import ON_SCORES
from ..utils import checks
from .fields import checks_of, kinds, read, written
from .result import AttackResult
from .rule import AttackRule
from .state import Rows, State, beside
from .targets import Goal, check_rivals, goal, highest_rivals, row_index

S = TypeVar("S", bound=State)


class Attack(AttackRule[S]):
    """Base of the attacks: a subclass is a frozen dataclass with the hooks of its rule.

    ``repr`` is the identity of an attack: it leaves out the fields that hold their defaults, and
    evaluates back to an equal attack, as does :func:`from_repr`.
    """

    def __post_init__(self) -> None:
        """Check every field and give it its plain type, so that equal attacks have one repr."""
        kind: Any = type(self)
        if kind.__repr__ is not Attack.__repr__:
            raise TypeError(
                f"{kind.__name__} must be a dataclass with repr=False: an attack's repr is its "
                "identity, and leaves out defaults"
            )
        for name, check in checks_of(kind).items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.targets and self.objective not in ON_SCORES:
            raise ValueError(
                f"loss must be one of {', '.join(ON_SCORES)} with targets, got {self.objective!r}"
            )

    def __repr__(self) -> str:
        return written(self)

    def __call__(self, model: Model, x: Tensor, y: Tensor | None = None, **options: Any) -> Tensor:
        """Return the adversarial images alone, like x and detached; arguments as in :meth:`run`."""
        return self.run(model, x, y, **options).adv

    def run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        target: Tensor | None = None,
        eps: float | Tensor | None = None,
        initial_const: float | Tensor | None = None,
        seed: int = 0,
        index: Tensor | None = None,
        start: Tensor | None = None,
        rivals: Tensor | None = None,
    ) -> AttackResult:
        """Attack a batch of images.

        Args:
            model: a Classifier, or any module or callable that returns (N, K) logits. It runs in
                eval mode, and is left as it was.
            x: (N, ...) floating-point images inside `clip`.
            y: (N,) int64 labels to leave; the model's own decisions if neither `y` nor `target` is
                given. Beside `target` it is only checked to differ from it.
            target: (N,) int64 classes to reach.
            eps: radius in place of the attack's own: a number, or one per image (N,).
            initial_const: the same for attacks that search for the weight of their loss.
            seed: seed of the attack's random numbers.
            index: (N,) int64 place of each image in its data set, the key of its random numbers;
                0..N-1 by default.
            start: (N, ...) images like x to start from, such as those of a weaker attack, instead
                of the image or the random start; they are moved into ball and box. Later restarts
                are random. For PGD and APGD.
            rivals: (N, T) int64 classes to go for, one after another, in place of those of highest
                score. For attacks with `targets`.

        Returns:
            An :class:`AttackResult`. A row for which the model gives NaN is flagged there, and a
            UserWarning says how many there are.

        Raises:
            TypeError: x or labels of a wrong dtype, a model that is neither module nor callable, an
                eps or a start that the attack has no use for.
            ValueError: NaN or inf in x or start, x outside the box, a label out of range, a target
                equal to its label, a wrong shape, a negative eps, a model whose output is not
                (N, K).
            RuntimeError: tensors or model on different devices.

        Example:
            >>> import fastrobust as fr
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
            >>> attack = fr.attacks.PGD(eps=8 / 255, step_size=2 / 255)
            >>> result = attack.run(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
            >>> bool((result.linf <= 8 / 255 + 1e-6).all())
            True
        """
        x = checks.images(x).detach()
        self.check_box(x)
        if start is not None:
            start = checks.like(start, x, "start")
        with oracle(model, x.device) as network:
            if not len(x):
                return AttackResult.empty(x)
            # A clone: tensors made in inference mode cannot take part in autograd. A half-precision
            # image moves in float32, and is rounded once, before the decision.
            x0 = x.to(torch.promote_types(x.dtype, torch.float32), copy=True).contiguous()
            goals = goal(network, x0, y, target)
            state = self.start(
                network, x0, goals,
                eps=eps, initial_const=initial_const, seed=seed, index=index, start=start,
                rivals=rivals,
            )  # fmt: skip
            for caution in self.cautions(network, state):
                warnings.warn(caution, UserWarning, stacklevel=2)
            scheduler.run_batch(self, network, state)
            result = self.assess(network, state, x)
            if lost := int(result.invalid.sum()):
                warnings.warn(
                    f"the model gave NaN for {lost} of {len(x)} images: they are "
                    "returned unchanged, as failures, and flagged in `invalid`",
                    UserWarning,
                    stacklevel=2,
                )
            return result

    def start(
        self,
        network: Oracle,
        x0: Tensor,
        goals: Goal,
        *,
        eps: float | Tensor | None = None,
        initial_const: float | Tensor | None = None,
        seed: int = 0,
        index: Tensor | None = None,
        start: Tensor | None = None,
        rivals: Tensor | None = None,
    ) -> S:
        """Return the state of rows of which nothing is known but what they want.

        `x0` (N, ...) lies inside `clip`, is contiguous, at least float32, and kept; `goals` is what
        the rows want. Other arguments are those of :meth:`run`.
        """
        per_row = {}
        for name, value in (("eps", eps), ("initial_const", initial_const)):
            if name == self.per_row:
                value = getattr(self, name) if value is None else value
                # A search multiplies and halves its c: in float64, so that equal values meet.
                weight = name == "initial_const"
                dtype = torch.float64 if weight else None
                numbers = checks.per_row(value, x0, name, positive=weight, dtype=dtype)
                per_row[name] = numbers.contiguous()
            elif value is not None:
                takes = self.per_row or "nothing"
                raise TypeError(f"{type(self).__name__} must be given {takes} per row, got {name}")
        self.require(goals.sign)
        label, classes, asked = None, None, goals.asked
        if rivals is not None:
            if not self.targets:
                raise TypeError(f"rivals must be for an attack with targets, got some for {self!r}")
            classes = check_rivals(rivals, goals.y, network.num_classes(x0))
        elif self.targets:
            z = network.decide(x0)[0] if goals.z is None else goals.z
            asked += int(not asked)
            classes = highest_rivals(network.head.scores(z), goals.y, self.targets)
        if self.reads_units:
            z = network.decide(x0)[0] if goals.z is None else goals.z
            # A guess is made at the clean image; a target's vector and a one-hot label are known.
            guessed = network.head.vectors is not None and bool((goals.sign > 0).any())
            asked += int(guessed and not asked)
            label = label_vectors(network.head, z, goals.y, goals.sign)
        rows = Rows(
            x0=x0,
            y=goals.y.clone(),
            sign=goals.sign,
            index=row_index(index, x0).contiguous(),
            seed=seed,
            label=label,
            rivals=classes,
            **per_row,
        )
        state = self.init(rows)
        if start is not None:
            self.start_at(state, start)
        state.queries += asked
        state.invalid |= ~goals.valid
        return state

    def assess(self, network: Oracle, state: S, x: Tensor) -> AttackResult:
        """Return the result of rows that are done; `x` (N, ...) are the caller's images.

        The decision is made on the images as they are returned, after the attack and apart from it.
        """
        adv = self.adversarial(network, state).to(x.dtype)
        z, decision, valid = network.decide(adv)
        invalid = state.invalid | ~valid
        adv = torch.where(beside(invalid, x), x, adv)
        change = (adv.to(state.x0.dtype) - state.x0).flatten(1)
        return AttackResult(
            adv=adv,
            success=state.hit(decision) & ~invalid,
            claimed=self.claim(network, state, z, decision) & ~invalid,
            l2=change.norm(dim=1).to(x.dtype),
            linf=change.abs().amax(1).to(x.dtype),
            queries=state.queries + 1,
            decision=decision.masked_fill(invalid, -1),
            invalid=invalid,
            stalled=state.stalled,
        )


def from_repr(text: str) -> Attack[Any]:
    """Return the attack whose repr is `text`; nothing is evaluated but literals and quotients.

    Raises:
        ValueError: `text` is no attack, or holds more than literals.
        TypeError: the attack has no such field.

    Example:
        >>> from_repr("BIM(eps=8/255, steps=20)").steps
        20
    """
    attack: Attack[Any] = read(text, Attack)
    return attack


def by_title() -> dict[str, type[Attack[Any]]]:
    """Return the classes of all attacks, a caller's own too, by the name that tables show."""
    return {kind.title or name: kind for name, kind in kinds(Attack).items()}
