"""Programs whose standard output or errors are closed, have no room, or are read by nobody any more."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_data import short_command

ROOT = Path(__file__).parents[2]
UNREAD, FULL, CLOSED = ">&3", ">/dev/full", ">&- 2>&-"  # where the shell sends output


def in_shell(where: str, argv: list[str], **environment: str) -> subprocess.CompletedProcess:
    """A program's end when its output goes somewhere."""
    argv = ["bash", "-c", f'exec 3> >(:); wait $!; "$@" {where}', "bash", sys.executable, *argv]
    return subprocess.run(argv, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize("where", [UNREAD, FULL, CLOSED])
def test_a_training_goes_on_without_its_terminal(place, where):
    sizes = ("--n_layers", "1", "--objective", "causal", "--prompt", "none")
    done = in_shell(where, ["train_HeLLM.py", *short_command(place, *sizes)])
    assert (done.returncode, done.stderr) == (0, "")
    folder = place / "log" / "Small" / "MMHCL"
    assert "test Recall@10" in (folder / "tiny_log.txt").read_text()
    assert "test" in json.loads((folder / "tiny_metrics.jsonl").read_text().splitlines()[-1])


def attempted(where: str, what: str, **environment: str) -> tuple[int, str, str]:
    """What `attempt(what)` leaves: exit status, output, errors."""
    program = f"import os, signal, sys; from utils.cli.errors import run_program; sys.exit(run_program({what}))"
    done = in_shell(where, ["-c", program], **environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("what", ["print, 'a'", "print, 'a' * 10**6"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_nobody_reads_is_no_mistake(what, unbuffered):
    assert attempted(UNREAD, what, PYTHONUNBUFFERED=unbuffered) == (128 + signal.SIGPIPE, "", "")


@pytest.mark.parametrize("what", ["print, 'a'", "print, 'a' * 10**6"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_without_room_is_named(what, unbuffered):
    told = "error: standard output: No space left on device; make room there, or redirect it\n"
    assert attempted(FULL, what, PYTHONUNBUFFERED=unbuffered) == (1, "", told)
    assert attempted(CLOSED, what) == (0, "", "")


def test_letters_that_the_output_can_not_write():
    title = "print, 'Über — Tasse'"
    assert attempted("", title, PYTHONIOENCODING="ascii") == (0, "?ber ? Tasse\n", "")
    assert attempted("", title, PYTHONIOENCODING="utf-8") == (0, "Über — Tasse\n", "")


def test_an_interruption_is_one_line():
    assert attempted("", "os.kill, os.getpid(), signal.SIGINT") == (130, "", "SIGINT: stopped\n")
