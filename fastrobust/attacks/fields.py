"""Fields of the attacks: what each may hold, how they are written down, how they are read back."""

import ast
import math
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from ..engine.objectives import LOSSES, Loss


def number(name: str, value: Any) -> float:
    """A finite number >= 0."""
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be one number (per-row values go to run), got {value!r}"
        ) from None
    if not (math.isfinite(result) and result >= 0):
        raise ValueError(f"{name} must be >= 0 and finite, got {value!r}")
    return result


def positive(name: str, value: Any) -> float:
    """A finite number > 0."""
    if number(name, value) == 0:
        raise ValueError(f"{name} must be > 0 and finite, got {value!r}")
    return float(value)


def share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    if number(name, value) > 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    return float(value)


def threshold(name: str, value: Any) -> float:
    """A number > 0, or infinity."""
    return math.inf if value == math.inf else positive(name, value)


def count(name: str, value: Any, least: int = 1) -> int:
    """An integer >= `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if int(value) < least:
        raise ValueError(f"{name} must be >= {least}, got {value!r}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def word(*words: str) -> Callable[[str, Any], str]:
    """One of the given words."""

    def check(name: str, value: Any) -> str:
        if value not in words:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, got {value!r}")
        return value

    return check


def loss(name: str, value: Any) -> Any:
    """The name of a loss, or a callable (scores, y) -> (N,)."""
    return value if callable(value) else word(*LOSSES)(name, value)


def box(name: str, value: Any) -> tuple[float, float] | None:
    """(lo, hi) with lo < hi, or None for no box."""
    if value is None:
        return None
    try:
        lo, hi = map(float, value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be (lo, hi) or None, got {value!r}") from None
    if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
        raise ValueError(f"{name} must be (lo, hi) with lo < hi and both finite, got {value!r}")
    return lo, hi


# Types of an attack's fields: each says how its value is checked. A ``Literal`` checks itself.
NonNegative = Annotated[float, number]
Positive = Annotated[float, positive]
Share = Annotated[float, share]
Threshold = Annotated[float, threshold]
Count = Annotated[int, count]
CountFromZero = Annotated[int, partial(count, least=0)]
CountFromTwo = Annotated[int, partial(count, least=2)]
Flag = Annotated[bool, flag]
AnyLoss = Annotated[Loss, loss]
Box = Annotated[tuple[float, float], box]
MaybeBox = Annotated[tuple[float, float] | None, box]


@cache
def checks_of(kind: Any) -> dict[str, Callable[[str, Any], Any]]:
    """Return the check of each field of an attack's dataclass, by the field's name.

    Raises:
        TypeError: a field has no type that says how to check it.
    """
    hints = get_type_hints(kind, include_extras=True)
    checks = {}
    for field in fields(kind):
        hint = hints[field.name]
        if get_origin(hint) is Literal:
            checks[field.name] = word(*get_args(hint))
        elif get_origin(hint) is Annotated and callable(hint.__metadata__[0]):
            checks[field.name] = hint.__metadata__[0]
        else:
            raise TypeError(
                f"{kind.__name__}.{field.name} must have a type that says how to check it: one of "
                f"attacks/fields.py, such as NonNegative, or a Literal; got {hint}"
            )
    return checks


def written(attack: Any) -> str:
    """Return the attack as it is made; fields that hold their default are left out."""
    values = [(field, getattr(attack, field.name)) for field in fields(attack)]
    shown = [
        f"{field.name}={getattr(value, '__name__', repr(value))}"  # a callable loss by its name
        for field, value in values
        if field.default is MISSING or value != field.default
    ]
    return f"{type(attack).__name__}({', '.join(shown)})"


def read(text: str, base: type) -> Any:
    """Make the attack that `text` writes down, without evaluating it.

    Args:
        text: such as ``"PGD(eps=8/255, steps=10)"``: literals and quotients of literals only.
        base: the class whose dataclass descendants may be named.

    Raises:
        ValueError: the text is no such call, or names an unknown attack.
        TypeError: the attack has no such field.
    """
    known = kinds(base)
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("no call")
        name = call.func.id
        values = [_literal(node) for node in call.args]
        named = {word.arg or "**": _literal(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError, ZeroDivisionError) as fault:
        raise ValueError(
            f'an attack must be written like "PGD(eps=0.1, steps=10)", got {text!r}: {fault}'
        ) from None
    if name not in known:
        raise ValueError(f"an attack must be one of {', '.join(sorted(known))}, got {name!r}")
    names = [field.name for field in fields(known[name])]
    if unknown := sorted(named.keys() - set(names)):
        raise TypeError(f"{name} must have fields among {', '.join(names)}, got {unknown[0]!r}")
    return known[name](*values, **named)


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _literal(node.left) / _literal(node.right)
    return ast.literal_eval(node)


def kinds(base: type) -> dict[str, Any]:
    """Return the classes of attacks below `base` that can be made, by name."""
    return {kind.__name__: kind for kind in _descendants(base) if is_dataclass(kind)}


def _descendants(base: type) -> list[type]:
    children: list[type] = base.__subclasses__()
    return children + [kind for child in children for kind in _descendants(child)]
