import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastrobust.runs.folder import SCHEMA, RunFolder
from fastrobust.utils import atomic
from fastrobust.utils.errors import StoreError

COUNT = 5


def rows(targeted=True):
    random = np.random.default_rng(0)
    columns = {"index": np.arange(COUNT), "target": np.full(COUNT, 3 if targeted else -1)}
    for field in SCHEMA:
        if field.name not in columns:
            columns[field.name] = random.integers(0, 2, COUNT).astype(field.type.to_pandas_dtype())
    return columns


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize("targeted", [True, False])
def test_a_cell_comes_back_as_it_was(folder, targeted):
    given, facts = rows(targeted), {"seconds": 1.5, "attack": "BIM(eps=0.1)"}
    images = {"index": np.arange(2), "adversarial": np.random.rand(2, 1, 3, 3).astype(np.float32)}
    assert not folder.has("a")
    folder.write("a", given, facts, images)
    assert folder.has("a")
    cell = folder.read("a")
    assert list(cell.rows) == SCHEMA.names
    for name, column in given.items():
        np.testing.assert_array_equal(cell.rows[name], column, err_msg=name)
        assert cell.rows[name].dtype == column.dtype
    assert cell.facts["seconds"] == 1.5 and cell.facts["attack"] == "BIM(eps=0.1)"
    for name, column in images.items():
        np.testing.assert_array_equal(folder.read_images("a")[name], column)


def test_anyone_can_read_a_cell(folder):
    folder.write("a", rows(targeted=False), {"seconds": 1.5})
    frame = pq.read_table(folder.cell_path("a")).to_pandas()
    assert list(frame.columns) == SCHEMA.names
    assert frame["target"].isna().all()


def test_nothing_temporary_stays(folder):
    folder.write("a", rows(), {})
    assert [path.name for path in folder.root.rglob("*") if path.is_file()] == ["a.parquet"]
    with pytest.raises(KeyError):
        folder.write("b", {"target": np.zeros(1)}, {})
    assert [path.name for path in folder.root.rglob("*") if path.is_file()] == ["a.parquet"]


def test_a_kill_before_the_last_moment_leaves_no_cell(folder, monkeypatch):
    def kill(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        folder.write("a", rows(), {})
    assert not folder.has("a")


def test_half_a_cell_is_named(folder):
    folder.write("a", rows(), {})
    content = folder.cell_path("a").read_bytes()
    for size in (0, 3, len(content) // 2, len(content) - 1):
        folder.cell_path("a").write_bytes(content[:size])
        with pytest.raises(StoreError, match=r"cells/a\.parquet .*damaged"):
            folder.read("a")


def test_a_foreign_cell_is_named(folder):
    folder.write("a", rows(), {})
    folder.cell_path("a").rename(folder.cell_path("b"))
    with pytest.raises(StoreError, match=r"b\.parquet must hold cell b .*got a"):
        folder.read("b")
    pq.write_table(pa.table({"index": [1]}), folder.cell_path("c"))
    with pytest.raises(StoreError, match=r"c\.parquet .*foreign"):
        folder.read("c")
    metadata = {b"fastrobust": json.dumps({"key": "d", "format_version": 1}).encode()}
    table = pa.table({"index": [1]}).replace_schema_metadata(metadata)
    pq.write_table(table, folder.cell_path("d"))
    with pytest.raises(StoreError, match=r"d\.parquet .*columns \['index'\]"):
        folder.read("d")


def test_a_missing_cell_and_missing_images_are_named(folder):
    with pytest.raises(StoreError, match=r"a\.parquet .*missing"):
        folder.read("a")
    with pytest.raises(StoreError, match=r"images/a\.npz .*missing"):
        folder.read_images("a")


def test_damaged_images_are_named(folder):
    folder.write("a", rows(), {}, {"index": np.arange(2), "adversarial": np.zeros((2, 1, 2, 2))})
    content = folder.images_path("a").read_bytes()
    for size in (0, 10, len(content) // 2):
        folder.images_path("a").write_bytes(content[:size])
        with pytest.raises(StoreError, match=r"images/a\.npz .*damaged"):
            folder.read_images("a")


def test_one_folder_holds_one_run(folder):
    folder.start({"plan": {"limit": 3}, "device": "cpu"}, may_change=("device",))
    folder.start({"plan": {"limit": 3}, "device": "cuda"}, may_change=("device",))
    assert folder.read_run()["device"] == "cuda"
    with pytest.raises(StoreError, match=r"its plan\.limit is 3, not 4: give"):
        folder.start({"plan": {"limit": 4}, "device": "cpu"}, may_change=("device",))
    assert folder.read_run()["plan"] == {"limit": 3}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format_version": 99}'])
def test_a_bad_run_file_is_named(folder, content):
    folder.root.mkdir()
    folder.run_path.write_text(content)
    with pytest.raises(StoreError, match=r"run\.json must"):
        folder.read_run()
    with pytest.raises(StoreError, match=r"run\.json must"):
        folder.start({}, may_change=())


def test_no_run(tmp_path):
    with pytest.raises(StoreError, match="must be a run folder, but has no run.json"):
        RunFolder(tmp_path).read_run()


def test_failures_are_those_not_made_good(folder):
    assert folder.failures() == []
    folder.note_failure("a", error="first")
    folder.note_failure("b", error="other")
    folder.note_failure("a", error="second\nline")
    assert [(r["key"], r["error"]) for r in folder.failures()] == [
        ("a", "second\nline"),
        ("b", "other"),
    ]
    folder.write("b", rows(), {})
    assert [record["key"] for record in folder.failures()] == ["a"]
    with open(folder.failures_path, "a") as file:
        file.write('{"key": "c"')
    with pytest.raises(StoreError, match=r"failures\.jsonl .*line 4"):
        folder.failures()
