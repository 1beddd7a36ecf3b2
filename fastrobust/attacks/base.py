"""The frame of every attack: a frozen set of scalars, and a rule on the state of rows.

A rule has four hooks. :meth:`Attack.init` makes the state of new rows, :meth:`Attack.advance` moves
every row by what the network answered at it, :meth:`Attack.done` says which rows have ended, and
:meth:`Attack.adversarial` returns their images. No hook looks at another row, so whoever runs the
rule may take out a row that is done and put another one in its place. ``attack(model, x, y)``
runs it on one batch, a sweep by continuous batching (``engine/scheduler.py``).
"""

import warnings
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ..engine import scheduler
from ..engine.answers import Answer
from ..engine.gradients import Oracle
from ..engine.objectives import Loss, label_vectors, reads_units, resembles
from ..engine.opening import oracle
from ..engine.prepared import Model
from ..engine.score_losses import ON_SCORES
from ..models.heads import Head
from ..utils import checks
from .fields import CHECKS, read, written
from .result import AttackResult
from .state import Rows, State, beside
from .targets import Goal, goal, row_index
from .targets import rivals as highest

S = TypeVar("S", bound=State)


class Attack(Generic[S]):
    """Base of the attacks; a subclass is a frozen dataclass with the four hooks.

    ``repr`` is the identity of an attack: it leaves out the fields that hold their defaults, and
    evaluates back to an equal attack, as does :func:`from_repr`.
    """

    per_row: ClassVar[str | None] = None  # the field that `run` takes per row
    prefix: ClassVar[str | None] = None  # the field by which a shorter run begins a longer one
    climbs: ClassVar[bool] = True  # the loss goes up; a search for the least one goes down
    targets: int = 0  # rival classes to go for one after another
    clip: tuple[float, float] | None

    def __post_init__(self) -> None:
        """Check every field and give it its plain type, so that equal attacks have one repr."""
        kind = type(self)
        if kind.__repr__ is not Attack.__repr__:
            raise TypeError(
                f"{kind.__name__} must be a dataclass with repr=False: an attack's repr is its "
                "identity, and leaves out defaults"
            )
        for name in self.__dataclass_fields__:  # type: ignore[attr-defined]
            if name not in CHECKS:
                raise TypeError(
                    f"{kind.__name__} must have a check of {name!r} in attacks/fields.py, got none"
                )
            object.__setattr__(self, name, CHECKS[name](name, getattr(self, name)))
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
            eps: budget in place of the attack's own: a number, or one per image (N,).
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
            TypeError: x or labels of a wrong dtype, a model that is neither module nor callable, a
                budget or a start that the attack has no use for.
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
                return _empty(x)
            # A clone: tensors made in inference mode cannot take part in autograd. A half-precision
            # image moves in float32, and is rounded once, before the verdict.
            x0 = x.to(torch.promote_types(x.dtype, torch.float32), copy=True).contiguous()
            wish = goal(network, x0, y, target)
            state = self.start(
                network, x0, wish,
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
        wish: Goal,
        *,
        eps: float | Tensor | None = None,
        initial_const: float | Tensor | None = None,
        seed: int = 0,
        index: Tensor | None = None,
        start: Tensor | None = None,
        rivals: Tensor | None = None,
    ) -> S:
        """Return the state of rows of which nothing is known but what they want.

        `x0` (N, ...) lies inside `clip`, is contiguous, at least float32, and kept; `wish` is what
        the rows want. Other arguments are those of :meth:`run`.
        """
        budgets = {}
        for name, value in (("eps", eps), ("initial_const", initial_const)):
            if name == self.per_row:
                value = getattr(self, name) if value is None else value
                # A search multiplies and halves its c: in float64, so that equal values meet.
                weight = name == "initial_const"
                dtype = torch.float64 if weight else None
                numbers = checks.per_row(value, x0, name, positive=weight, dtype=dtype)
                budgets[name] = numbers.contiguous()
            elif value is not None:
                own = self.per_row or "no budget"
                raise TypeError(f"{type(self).__name__} must be given {own} per row, got {name}")
        self.require(wish.sign)
        label, classes, asked = None, None, wish.asked
        if rivals is not None:
            classes = self._check_rivals(rivals, wish.y, network.num_classes(x0))
        elif self.targets:
            z = network.decide(x0)[0] if wish.z is None else wish.z
            asked += int(not asked)
            classes = highest(network.head.scores(z), wish.y, self.targets)
        if self.reads_units:
            z = network.decide(x0)[0] if wish.z is None else wish.z
            # A guess is made at the clean image; a target's vector and a one-hot label are known.
            guessed = network.head.vectors is not None and bool((wish.sign > 0).any())
            asked += int(guessed and not asked)
            label = label_vectors(network.head, z, wish.y, wish.sign)
        rows = Rows(
            x0=x0,
            y=wish.y.clone(),
            sign=wish.sign,
            index=row_index(index, x0).contiguous(),
            seed=seed,
            label=label,
            rivals=classes,
            **budgets,
        )
        state = self.init(rows)
        if start is not None:
            self.start_at(state, start)
        state.queries += asked
        state.invalid |= ~wish.valid
        return state

    def init(self, rows: Rows) -> S:
        """Return the state of rows that have not been asked about yet."""
        raise NotImplementedError

    def update(self, network: Oracle, state: S) -> None:
        """Ask the network about every row and move it, in place."""
        live = ~self.done(state)
        self.advance(state, self.ask(network, state, live), live)

    def advance(self, state: S, answer: Answer, live: Tensor) -> None:
        """Move the rows by the answer at ``state.x``, in place; only `live` ones (N,) count."""
        raise NotImplementedError

    def done(self, state: S) -> Tensor:
        """Return which rows (N,) have ended; further updates of theirs change nothing."""
        raise NotImplementedError

    def adversarial(self, network: Oracle, state: S) -> Tensor:
        """Return the images (N, ...) of rows that are done."""
        raise NotImplementedError

    def claim(self, network: Oracle, state: S, z: Tensor) -> Tensor:
        """Return what the attack believes (N,) of its images, whose pre-activations are z (N, d).

        By default by the argmax of what its loss compares: the class scores, which is the decision,
        or under the training loss the units with the label's target vector. On codewords that is
        something else, and where the paper's tables went wrong.
        """
        same = resembles(network.head, z, state.y, self.objective, state.label)
        return same == (state.sign < 0)

    @property
    def objective(self) -> Loss:
        """The loss to climb, as the network is asked for it."""
        raise NotImplementedError

    @property
    def reads_units(self) -> bool:
        """Whether rows need a label vector beside the output units."""
        return reads_units(self.objective)

    @property
    def starts_at_image(self) -> bool:
        """Whether the first question is about the clean image, whatever the budget."""
        return False

    def tests_decision(self, head: Head) -> bool:
        """Whether the attack's own test for success is the decision of a model with this head."""
        return True

    @property
    def ends_early(self) -> bool:
        """Whether a decision on the way ends a row or chooses what it returns."""
        return True

    @property
    def stride(self) -> int:
        """Updates between two looks at which rows are done; a look waits for the device."""
        return 1

    @property
    def uneven(self) -> bool:
        """Whether some rows take many times as long as others."""
        return False

    def stopped_early(self, state: S) -> Tensor:
        """Return which rows (N,) ended by a first success that cut their search short."""
        return torch.zeros_like(state.invalid)

    def saved_queries(self, state: S) -> Tensor:
        """Return the evaluations (N,) that the steps of a search cut short would have cost."""
        return torch.zeros_like(state.queries)

    def cautions(self, network: Oracle, rows: Rows) -> list[str]:
        """Return what a direct caller should be warned of."""
        return []

    def check_box(self, x: Tensor) -> None:
        """Raise ValueError where images (N, ...) lie outside the box."""
        box = self.clip
        if box is not None and len(x) and (float(x.min()) < box[0] or float(x.max()) > box[1]):
            raise ValueError(
                f"x must lie in the box {box}, got {float(x.min()):.6g} to {float(x.max()):.6g}; "
                "normalisation belongs inside the model, clip=None is for no box at all"
            )

    def require(self, sign: Tensor) -> None:
        """Raise ValueError where the rows' directions (N,), 1 away and -1 towards, do not suit."""
        if self.targets and (sign < 0).any():
            raise ValueError(
                f"{self!r} chooses its targets itself, got a target in {int((sign < 0).sum())} of "
                f"{len(sign)} rows"
            )

    def _check_rivals(self, rivals: Tensor, y: Tensor, num_classes: int) -> Tensor:
        """Return rivals that an attack was given, if it can use them."""
        if not self.targets:
            raise TypeError(f"rivals must be for an attack with targets, got some for {self!r}")
        if rivals.dim() != 2 or len(rivals) != len(y):
            raise ValueError(f"rivals must have shape ({len(y)}, T), got {tuple(rivals.shape)}")
        flat = checks.labels(rivals.flatten(), rivals.numel(), num_classes, y.device, "rivals")
        found = flat.view(rivals.shape)
        if (found == y[:, None]).any():
            raise ValueError("rivals must differ from y, got y among them")
        return found

    def choose(self, state: S, run: Tensor) -> None:
        """Let rows go for the rival of their run, (N,) int64: for each in turn."""
        if state.rivals is None or state.rival is None:
            return
        if state.rivals.shape[1]:  # a lone class has none
            place = run % state.rivals.shape[1]
            state.rival.copy_(state.rivals.gather(1, place[:, None])[:, 0])

    def start_at(self, state: S, start: Tensor) -> None:
        """Put fresh rows at images (N, ...) like x0, moved into ball and box."""
        raise TypeError(f"start must be for PGD or APGD, got one for {self!r}")

    def ask(self, network: Oracle, state: S, live: Tensor, gradient: bool = True) -> Answer:
        """Ask about every row at ``state.x``; book it on the rows that are `live`, (N,) bool."""
        sign = state.sign if self.climbs else -state.sign
        asked = state.x, state.y, self.objective, sign, state.label, state.rival
        if gradient:
            answer = network.gradient(*asked, confirm=self.ends_early)
        else:
            answer = network.score(*asked)
        self.book(state, answer, live, 2 if gradient else 1)
        return answer

    def book(self, state: S, answer: Answer, live: Tensor, evaluations: int) -> None:
        """Note on `live` rows what an answer cost, and whether it was one."""
        state.queries.add_(live, alpha=evaluations)
        state.invalid |= live & ~answer.valid

    def assess(self, network: Oracle, state: S, x: Tensor) -> AttackResult:
        """Return what rows that are done found for the images `x` (N, ...) as the caller has them.

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
            claimed=self.claim(network, state, z) & ~invalid,
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


def _empty(x: Tensor) -> AttackResult:
    flags = torch.zeros(0, dtype=torch.bool, device=x.device)
    size, place = x.new_zeros(0), flags.long()
    return AttackResult(x.detach().clone(), flags, flags, size, size, place, place, flags, flags)
