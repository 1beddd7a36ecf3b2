"""The run folder: the results of a sweep, in files that several processes may write.

- ``run.json``: plan, data set, classifiers and software.
- ``cells/<key>.parquet``: a row per image; the metadata describe the cell.
- ``images/<key>.npz``: the first adversarial images of a cell, or clean ones without an attack.
- ``failures.jsonl``: a line per failed attempt.

There are no locks: a file is written under a temporary name and renamed, so a cell whose file
exists is complete, and two processes that write one cell write the same.
"""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..utils import atomic
from ..utils.errors import StoreError
from ..utils.text import slug

FORMAT_VERSION = 1
IMAGES_KEPT = 64

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),  # index of the image in its data set
        ("label", pa.int64()),
        ("target", pa.int64()),  # null (-1 in memory) under untargeted attack
        ("clean", pa.int64()),  # decision on the clean image
        ("decision", pa.int64()),  # decision on the adversarial image
        ("claimed", pa.bool_()),  # success by the attack's own test
        ("success", pa.bool_()),  # success by the decision
        ("l2", pa.float64()),  # not squared, pixels in [0, 1]
        ("linf", pa.float64()),
        ("queries", pa.int64()),  # network evaluations, forward and backward counting one each
    ]
)
_METADATA = b"fastrobust"


@dataclass(frozen=True)
class StoredCell:
    """One measured cell: `rows` has a numpy array per column of SCHEMA, `facts` the rest."""

    rows: dict[str, np.ndarray]
    facts: dict[str, Any]


class RunFolder:
    """Reads and writes one run folder; makes it when something is first written."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.run_path = self.root / "run.json"
        self.failures_path = self.root / "failures.jsonl"

    def start(self, run: Mapping[str, Any], may_change: tuple[str, ...]) -> None:
        """Write run.json, or check that the folder already belongs to the same run.

        Args:
            run: Content of run.json, JSON-able.
            may_change: Top-level entries that may differ in a later start.

        Raises:
            StoreError: The folder holds another run; the message names what differs.
        """
        run = {"format_version": FORMAT_VERSION, **json.loads(json.dumps(run))}
        if self.run_path.exists():
            old = self.read_run()
            fixed = sorted((old.keys() | run.keys()) - set(may_change))
            differences = [d for k in fixed for d in _differences(old.get(k), run.get(k), k)]
            if differences:
                raise StoreError(
                    f"{self.root} must be empty or hold this same run, but its "
                    f"{'; its '.join(differences[:3])}: give another folder"
                )
        text = json.dumps(run, indent=1) + "\n"
        atomic.replace(self.run_path, lambda path: path.write_text(text, encoding="utf-8"))

    def read_run(self) -> dict[str, Any]:
        """Return the content of run.json.

        Raises:
            StoreError: The folder has none, or it cannot be read, or has another format version.
        """
        try:
            run = json.loads(self.run_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{self.root} must be a run folder, but has no run.json") from None
        except ValueError as error:
            raise StoreError(f"{self.run_path} must be JSON, but cannot be read: {error}") from None
        version = run.get("format_version") if isinstance(run, dict) else None
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{self.run_path} must have format_version {FORMAT_VERSION}, got {version}"
            )
        return run

    def cell_path(self, key: str) -> Path:
        """Return the path of the cell `key`."""
        return self.root / "cells" / f"{key}.parquet"

    def has(self, key: str) -> bool:
        """Whether the cell `key` has been measured."""
        return self.cell_path(key).exists()

    def write(
        self,
        key: str,
        rows: Mapping[str, Any],
        facts: Mapping[str, Any],
        images: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write a cell: its images first, since a cell whose parquet file exists is complete."""
        columns = {name: pa.array(rows[name]) for name in SCHEMA.names if name != "target"}
        target = np.asarray(rows["target"])
        columns["target"] = pa.array(target, mask=target < 0)
        table = pa.table(columns).select(SCHEMA.names).cast(SCHEMA)
        metadata = {"format_version": FORMAT_VERSION, "key": key, **facts}
        table = table.replace_schema_metadata({_METADATA: json.dumps(metadata).encode()})
        if images is not None:
            save_npz(self.images_path(key), images)
        atomic.replace(self.cell_path(key), lambda path: pq.write_table(table, path))

    def read(self, key: str) -> StoredCell:
        """Return the cell `key`.

        Raises:
            StoreError: Its file is missing, damaged, foreign, or under another cell's name.
        """
        path = self.cell_path(key)
        try:
            table = pq.read_table(path)
            facts = json.loads((table.schema.metadata or {})[_METADATA])
        except FileNotFoundError:
            raise StoreError(f"{path} must hold a measured cell, but is missing") from None
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise StoreError(
                f"{path} must be a cell of a run, but is damaged or foreign "
                f"({type(error).__name__}); delete it to have it measured again"
            ) from error
        identity = (facts.get("key"), facts.get("format_version"))
        if not table.schema.equals(SCHEMA) or identity != (key, FORMAT_VERSION):
            raise StoreError(
                f"{path} must hold cell {key} in format {FORMAT_VERSION}, got {identity[0]} in "
                f"format {identity[1]} with columns {table.schema.names}"
            )
        target = SCHEMA.get_field_index("target")
        table = table.set_column(target, "target", table["target"].fill_null(-1))
        return StoredCell({name: table[name].to_numpy() for name in SCHEMA.names}, facts)

    def images_path(self, key: str) -> Path:
        """Return the path of the images of the cell `key`."""
        return self.root / "images" / f"{key}.npz"

    def read_images(self, key: str) -> dict[str, np.ndarray]:
        """Return ``index`` (n,) and ``adversarial`` (n, C, H, W) of a cell's first images.

        Raises:
            StoreError: The file is missing or damaged.
        """
        path = self.images_path(key)
        try:
            # Opened here, since numpy leaves a damaged file open.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
                return {name: content[name] for name in ("index", "adversarial")}
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise StoreError(
                f"{path} must hold the images of a cell, but is missing or damaged "
                f"({type(error).__name__})"
            ) from error

    def note_failure(self, key: str, **facts: Any) -> None:
        """Append one line about a cell that could not be measured."""
        line = json.dumps({"key": key, **facts}) + "\n"
        self.root.mkdir(parents=True, exist_ok=True)
        # One unbuffered write of a line in append mode: lines of several writers do not mix.
        with open(self.failures_path, "ab", buffering=0) as file:
            file.write(line.encode())

    def failures(self) -> list[dict[str, Any]]:
        """Return the last failure of every cell that has not been measured since.

        Raises:
            StoreError: A line of failures.jsonl cannot be read.
        """
        if not self.failures_path.exists():
            return []
        last: dict[str, dict[str, Any]] = {}
        text = self.failures_path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            try:
                record = json.loads(line)
                last[record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{self.failures_path} must hold one JSON object per line, "
                    f"but line {number} does not: {error}"
                ) from None
        return [record for key, record in last.items() if not self.has(key)]


def _differences(old: Any, new: Any, name: str) -> Iterator[str]:
    """Yield a phrase per value that differs, such as ``plan.limit is 3, not 4``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}")
    elif old != new:
        texts = ["there" if isinstance(value, dict) else json.dumps(value) for value in (old, new)]
        yield "{} is {}, not {}".format(name, *texts)


def checkpoint_path(out_dir: str | os.PathLike[str], model_name: str) -> Path:
    """Return the path of a classifier's checkpoint in a run folder.

    >>> checkpoint_path("runs/digits", "R:TANH:MSE").as_posix()
    'runs/digits/models/r-tanh-mse.safetensors'
    """
    return Path(out_dir) / "models" / f"{slug(model_name)}.safetensors"


def evaluation_path(out_dir: str | os.PathLike[str], model: str, eps: float) -> Path:
    """Return the path of a classifier's evaluation in a run folder.

    >>> evaluation_path("runs/mine", "R:TANH:MSE", 0.1).as_posix()
    'runs/mine/evaluations/r-tanh-mse-0.1'
    """
    return Path(out_dir) / "evaluations" / f"{slug(model)}-{eps:g}"


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name to a compressed .npz file; an interrupted write leaves none."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # to a mere name numpy would append .npz
            np.savez_compressed(file, **cast(Any, arrays))

    atomic.replace(path, write)
