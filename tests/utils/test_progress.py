import io

import pytest

from fastrobust.utils import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_few_and_the_last_one_is_whole(monkeypatch):
    clock = iter([float(t) for t in range(0, 1000, 2)])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with progress.track(10, "work", stream) as tracker:
        for n in range(10):
            tracker.note(f"part {n}")
            tracker.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) < 8
    assert lines[-1].startswith("work: 10/10") and lines[-1].endswith("part 9")


def test_last_line_after_an_error():
    stream = io.StringIO()
    with pytest.raises(KeyError), progress.track(3, "work", stream) as tracker:
        tracker.advance(2)
        raise KeyError
    assert stream.getvalue().startswith("work: 2/3")


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with progress.track(3, "work", stream) as tracker:
        tracker.note("PGD[/x]")
        tracker.advance(3)
    shown = stream.getvalue()
    assert "work" in shown and "3/3" in shown and "PGD[/x]" in shown
