"""Processes share a list of work; a crash is reported to the caller."""

import os

import pytest

from fastrobust.utils.processes import helpers


def crash(turns):
    os._exit(3)


def test_a_single_process_gets_every_item():
    with helpers(1, crash) as turns:
        assert list(turns.of("abc")) == list("abc")


def test_a_crash_is_reported():
    words = r"1 of 1 helper processes crashed \(exit codes 3\)"
    with pytest.warns(UserWarning, match=words), helpers(2, crash) as turns:
        assert list(turns.of("abc")) == list("abc")
