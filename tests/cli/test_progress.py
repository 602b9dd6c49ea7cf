"""Signs of life on standard error."""

import threading

import pytest

from utils.cli import progress


@pytest.fixture
def impatient(monkeypatch):
    """Print lines at once."""
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_without_a_terminal_long_work_prints_lines(capsys):
    assert list(progress.track("abcd", "reading", "files", 4)) == list("abcd")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[1] == "reading: 2 of 4 files, 0 s left"
    assert len(captured.err.splitlines()) == 4
    list(progress.track("ab", "reading", "lines"))
    assert capsys.readouterr().err == "reading: 1 lines\nreading: 2 lines\n"


def test_short_work_prints_nothing(capsys):
    list(progress.track("abcd", "reading", "files", 4))
    with progress.announce("counting"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("impatient")
def test_other_ranks_print_nothing(capsys):
    list(progress.track("abcd", "reading", "files", 4, enabled=False))
    assert capsys.readouterr().err == ""


def test_work_without_parts_is_announced_once_it_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.001)
    with progress.announce("x" * 200):
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
    lines = capsys.readouterr().err.splitlines()
    assert [len(line) for line in lines] == [100]
    assert lines[0].startswith("xxx")


@pytest.mark.usefixtures("impatient")
def test_a_closed_standard_error_is_no_error(monkeypatch):
    class Closed:
        encoding = "utf-8"

        def isatty(self):
            return False

        def write(self, _text):
            raise BrokenPipeError

        def flush(self):
            pass

    monkeypatch.setattr("sys.stderr", Closed())
    assert list(progress.track("ab", "reading", "files", 2)) == ["a", "b"]
