"""Checkpoints: one safetensors file that rebuilds a classifier and says where it comes from.

The tensors are the classifier's state: weights, running statistics, normalisation, codewords. The
metadata entry ``fastrobust`` holds the facts as JSON. A codebook's key is in neither.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import models
from ..utils import atomic
from ..utils.errors import CheckpointError
from . import heads
from .classifier import Classifier
from .codebook import Codebook

FORMAT_VERSION = 1

_ENTRY = "fastrobust"


def save(path: str | os.PathLike[str], classifier: Classifier, **facts: Any) -> None:
    """Write `classifier` to `path`, whole or not at all.

    Args:
        path: file to write, by habit ``*.safetensors``.
        classifier: float32; its network comes from :func:`fastrobust.models.densenet`.
        **facts: JSON values to keep beside it; training gives model_name, data_set, digest, seed,
            accuracy and config.

    Raises:
        TypeError: the network or the head is not this library's, or weights are not float32.
        ValueError: a weight is NaN or inf.

    Example:
        >>> import tempfile
        >>> import fastrobust as fr
        >>> model = fr.Classifier(fr.models.by_name("digits", 1), fr.heads.Softmax("ce"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/a.safetensors", model, seed=3)
        ...     read_facts(f"{folder}/a.safetensors")["seed"]
        3
    """
    tensors = {n: t.detach().cpu().contiguous() for n, t in classifier.state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise TypeError(f"{name} must be float32, got {tensor.dtype}")
    wrong = _not_finite(tensors)
    if wrong:
        raise ValueError(f"weights must be finite, got NaN or inf in {wrong}")
    computed = {
        "format_version": FORMAT_VERSION,
        "architecture": models.architecture(classifier.net),
        "head": _describe(classifier.head),
        "normalisation": _normalisation(tensors),
        "weights_digest": weights_digest(tensors),
    }
    metadata = {"format": "pt", _ENTRY: json.dumps({**facts, **computed})}
    atomic.replace(Path(path), lambda temporary: save_file(tensors, temporary, metadata))


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Classifier:
    """Rebuild the classifier of a checkpoint, in eval mode; no random number is drawn.

    Args:
        path: file that :func:`save` wrote.
        device: where its tensors go.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, foreign, of another format version, or holds weights
            that are not finite or do not fit the architecture.
    """
    facts, tensors = _read(path, with_tensors=True)
    wrong = _not_finite(tensors)
    if wrong:
        raise CheckpointError(f"{path} must hold finite weights, got NaN or inf in {wrong}")
    classifier = _rebuild(path, facts, tensors)
    _check_fit(path, classifier, tensors)
    if weights_digest(tensors) != facts.get("weights_digest"):
        raise CheckpointError(
            f"{path} must hold weights of digest {facts.get('weights_digest')}, got "
            f"{weights_digest(tensors)}: it was damaged or changed after training"
        )
    classifier.load_state_dict(tensors, assign=True)
    return classifier.to(device).eval()


def read_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a checkpoint says of itself; cheap, since weights are neither read nor checked.

    Returns:
        format_version, architecture, head, normalisation, weights_digest, and what was given to
        :func:`save`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, foreign, or of another format version.
    """
    return _read(path, with_tensors=False)[0]


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of the names, dtypes, shapes and values of a state dict."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().data)
    return sha.hexdigest()


def _read(
    path: str | os.PathLike[str], *, with_tensors: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} must be a checkpoint, got no such file")
    try:
        with safe_open(path, "pt") as file:
            entry = (file.metadata() or {}).get(_ENTRY)
            names = file.keys() if with_tensors else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(f"{path} must be a whole safetensors file, got: {error}") from error
    if entry is None:
        raise CheckpointError(
            f"{path} must be a checkpoint of fastrobust, got a safetensors file without its "
            f"metadata entry {_ENTRY!r}"
        )
    try:
        facts = json.loads(entry)
        version = facts["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} must hold its facts as JSON, got: {error!r}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} must have format version {FORMAT_VERSION}, got {version}: "
            "use the release of fastrobust that wrote it"
        )
    return facts, tensors


def _rebuild(
    path: str | os.PathLike[str], facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Classifier:
    """Build the classifier around a network without storage (PyTorch's meta device)."""
    try:
        with torch.device("meta"):
            net = models.densenet(**facts["architecture"])
        head = _head(tensors=tensors, **facts["head"])
        normalize = None
        if facts["normalisation"] is not None:
            normalize = (tensors["mean"].flatten().tolist(), tensors["std"].flatten().tolist())
        return Classifier(net, head, normalize)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} must hold an architecture, a head and a normalisation that can be rebuilt, "
            f"got: {error!r}"
        ) from error


def _check_fit(
    path: str | os.PathLike[str], classifier: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    expected, fact = (
        {name: f"{tuple(t.shape)} {t.dtype}" for name, t in state.items()}
        for state in (classifier.state_dict(), tensors)
    )
    for name in sorted(expected.keys() | fact.keys()):
        if expected.get(name) != fact.get(name):
            raise CheckpointError(
                f"{path} must fit its architecture: {name} must be "
                f"{expected.get(name, 'absent')}, got {fact.get(name, 'no such tensor')}"
            )


def _describe(head: heads.Head) -> dict[str, str]:
    for kind, make in (("codeword", heads.Codeword), ("linear", heads.Linear)):
        if type(head) is make:
            return {"kind": kind}
    if type(head) is heads.Softmax:
        return {"kind": "softmax", "loss": head.training_loss}
    raise TypeError(f"head must be one of fastrobust.heads, got {type(head).__name__}")


def _head(kind: str, tensors: Mapping[str, Tensor], loss: str = "ce") -> heads.Head:
    if kind == "softmax":
        return heads.Softmax(loss)
    if kind == "linear":
        return heads.Linear()
    if kind == "codeword":
        return heads.Codeword(Codebook(tensors["head.vectors"]))
    raise ValueError(f"head must be softmax, linear or codeword, got {kind!r}")


def _normalisation(tensors: Mapping[str, Tensor]) -> dict[str, list[float]] | None:
    if "mean" not in tensors:
        return None
    return {name: tensors[name].flatten().tolist() for name in ("mean", "std")}


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Name the first tensor that holds NaN or inf, or return an empty string."""
    return next((n for n, t in tensors.items() if not torch.isfinite(t).all()), "")
