"""A file is written completely or not at all."""

import pytest

from fastrobust.utils import atomic


def test_a_file_appears_at_once_with_its_folder(tmp_path):
    path = tmp_path / "new" / "a.txt"

    def write(temporary):
        temporary.write_text("whole")
        assert not path.exists()

    atomic.replace(path, write)
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [("a.txt", "whole")]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic.replace(path, write)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]
