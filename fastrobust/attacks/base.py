"""The frame of every attack: a frozen set of scalars, and a rule on the state of rows.

A rule has four hooks. :meth:`Attack.init` makes the state of new rows, :meth:`Attack.update` asks
the network once about every row and moves it, :meth:`Attack.done` says which rows have ended, and
:meth:`Attack.verdict` says what they return. No hook looks at another row, so whoever drives the
rule may take out a row that is done and put another one in its place. ``attack(model, x, y)``
drives it over one batch.
"""

import warnings
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .. import checks
from ..engine import Answer, Loss, Model, Oracle, oracle
from .fields import CHECKS, read, written
from .result import AttackResult
from .state import Rows, State, beside
from .targets import goal, row_index

S = TypeVar("S", bound=State)


class Attack(Generic[S]):
    """Base of the attacks; a subclass is a frozen dataclass with the four hooks.

    ``repr`` is the identity of an attack: it leaves out the fields that hold their defaults, and
    evaluates back to an equal attack, as does :func:`from_repr`.
    """

    eps: float
    loss: Loss
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
        seed: int = 0,
        index: Tensor | None = None,
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
            seed: seed of the attack's random numbers.
            index: (N,) int64 place of each image in its data set, the key of its random numbers;
                0..N-1 by default.

        Returns:
            An :class:`AttackResult`. A row for which the model gives NaN is flagged there, and a
            UserWarning says how many there are.

        Raises:
            TypeError: x or labels of a wrong dtype, a model that is neither module nor callable.
            ValueError: NaN or inf in x, x outside the box, a label out of range, a target equal to
                its label, a wrong shape, a negative eps, a model whose output is not (N, K).
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
        _inside(x, self.clip)
        with oracle(model, x.device) as network:
            if not len(x):
                return _empty(x)
            # A clone: tensors made in inference mode cannot take part in autograd. A half-precision
            # image moves in float32, and is rounded once, before the verdict.
            x0 = x.to(torch.promote_types(x.dtype, torch.float32), copy=True).contiguous()
            y, sign, valid, asked = goal(network, x0, y, target)
            rows = Rows(
                x0=x0,
                y=y.clone(),
                sign=sign,
                eps=checks.per_row(self.eps if eps is None else eps, x0, "eps").contiguous(),
                index=row_index(index, x0).contiguous(),
                seed=seed,
            )
            for caution in self.cautions(rows):
                warnings.warn(caution, UserWarning, stacklevel=2)
            state = self.init(rows)
            state.queries += asked
            state.invalid |= ~valid
            self._drive(network, state)
            adv = self.verdict(network, state)
            return self._judge(network, state, x, adv)

    def init(self, rows: Rows) -> S:
        """Return the state of rows that have not been asked about yet."""
        raise NotImplementedError

    def update(self, network: Oracle, state: S) -> None:
        """Ask the network once about every row and move it, in place."""
        raise NotImplementedError

    def done(self, state: S) -> Tensor:
        """Return which rows (N,) have ended; further updates of theirs change nothing."""
        raise NotImplementedError

    def verdict(self, network: Oracle, state: S) -> Tensor:
        """Return the images (N, ...) of rows that are done."""
        raise NotImplementedError

    def claim(self, network: Oracle, state: S, z: Tensor) -> Tensor:
        """Return what the attack believes (N,) of its images, whose pre-activations are z (N, d).

        By default by the argmax of what its loss compares: the class scores, which is the decision,
        or under the training loss the units with the label's target vector. On codewords that is
        something else, and where the paper's tables went wrong.
        """
        return network.resembles(z, state.y, self.loss) == (state.sign < 0)

    @property
    def objective(self) -> Loss:
        """The loss to climb, as the network is asked for it."""
        return self.loss

    def cautions(self, rows: Rows) -> list[str]:
        """Return what a direct caller should be warned of."""
        return []

    def ask(self, network: Oracle, state: S, live: Tensor, gradient: bool = True) -> Answer:
        """Ask about every row at ``state.x``; book it on the rows that are `live`, (N,) bool."""
        question = network.gradient if gradient else network.score
        answer = question(state.x, state.y, self.objective, state.sign)
        state.queries += live * (2 if gradient else 1)
        state.invalid |= live & ~answer.valid
        return answer

    def _drive(self, network: Oracle, state: S) -> None:
        """Update the rows until all are done; those that are leave the batch as it shrinks."""
        rows = torch.arange(len(state), device=state.x.device)
        batch = state.take(rows)
        while standing := int((~self.done(batch)).sum()):
            size = _shrunk(len(batch), standing)
            if size < len(batch):
                state.put(rows, batch)
                order = self.done(batch).int().argsort(stable=True)[:size]
                rows, batch = rows[order], batch.take(order)
            self.update(network, batch)
        state.put(rows, batch)

    def _judge(self, network: Oracle, state: S, x: Tensor, adv: Tensor) -> AttackResult:
        """Decide on the images as the caller gets them, after the attack and apart from it."""
        z, decision, valid = network.decide(adv.to(x.dtype))
        invalid = state.invalid | ~valid
        if invalid.any():
            warnings.warn(
                f"the model gave NaN for {int(invalid.sum())} of {len(x)} images: they are "
                "returned unchanged, as failures, and flagged in `invalid`",
                UserWarning,
                stacklevel=3,
            )
        adv = torch.where(beside(invalid, x), x, adv.to(x.dtype))
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


def _shrunk(size: int, standing: int) -> int:
    """Halve a batch while those standing fit: rows leave, and the network sees few shapes."""
    while size // 2 >= standing:
        size //= 2
    return size


def _inside(x: Tensor, clip: tuple[float, float] | None) -> None:
    if clip is not None and len(x) and (float(x.min()) < clip[0] or float(x.max()) > clip[1]):
        raise ValueError(
            f"x must lie in the box {clip}, got {float(x.min()):.6g} to {float(x.max()):.6g}; "
            "normalisation belongs inside the model, clip=None is for no box at all"
        )


def _empty(x: Tensor) -> AttackResult:
    flags = torch.zeros(0, dtype=torch.bool, device=x.device)
    size, place = x.new_zeros(0), flags.long()
    return AttackResult(x.detach().clone(), flags, flags, size, size, place, place, flags)
