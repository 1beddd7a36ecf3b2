"""The classifiers that can be trained, by name: the paper's, and other defences."""

import re
from collections.abc import Callable

from ..models import heads
from ..models.codebook import Codebook

CODE_LENGTH = 128  # the paper's number of units (arXiv 1812.00181, 4.2)

# A head by number of classes, codeword length, and key of the codewords.
MakeHead = Callable[[int, int, str], heads.Head]


def _codeword(num_classes: int, code_length: int, key: str) -> heads.Head:
    return heads.Codeword(Codebook.random(num_classes, code_length, key))


# The paper's models (arXiv 1812.00181, section 4.2): targets, units, loss.
_PAPERS: dict[str, MakeHead] = {
    "O:SOFTMAX:CE": lambda num_classes, code_length, key: heads.Softmax("ce"),
    "O:SOFTMAX:MSE": lambda num_classes, code_length, key: heads.Softmax("mse"),
    "R:TANH:MSE": _codeword,
}
# What they are compared with: squared error without a softmax, tanh without codewords, and the one
# defence that has held, adversarial training (Athalye et al. 2018, arXiv 1802.00420, 5.1).
ADVERSARIAL = "O:SOFTMAX:CE:PGD"
_DEFENCES: dict[str, MakeHead] = {
    "O:LINEAR:MSE": lambda num_classes, code_length, key: heads.Linear(),
    "O:TANH:MSE": lambda num_classes, code_length, key: heads.Codeword(
        Codebook.one_hot(num_classes)
    ),
    ADVERSARIAL: _PAPERS["O:SOFTMAX:CE"],
}
MODELS = {**_PAPERS, **_DEFENCES}
MODEL_NAMES, DEFENCE_NAMES = tuple(_PAPERS), tuple(_DEFENCES)

# The paper also tried codewords of 64, 256 and 1024 units (section 4.2): a length after the name.
_WITH_LENGTH = re.compile(r"(R:TANH:MSE):([1-9][0-9]*)")


def split_name(model_name: str) -> tuple[str, int | None]:
    """Return the name in :data:`MODELS` that a name starts with, and the codeword length after it.

    Raises:
        ValueError: there is no model of that name.

    >>> split_name("R:TANH:MSE:64"), split_name("O:SOFTMAX:CE")
    (('R:TANH:MSE', 64), ('O:SOFTMAX:CE', None))
    """
    if model_name in MODELS:
        return model_name, None
    match = _WITH_LENGTH.fullmatch(model_name)
    if not match:
        raise ValueError(
            f"the model must be one of {', '.join(MODELS)} or R:TANH:MSE:<codeword length>, "
            f"got {model_name!r}"
        )
    base, length = match[1], int(match[2])
    if length == CODE_LENGTH:
        raise ValueError(f"the model must be {base}, whose codewords have {length} units, "
                         f"got {model_name!r}")  # fmt: skip
    return base, length
