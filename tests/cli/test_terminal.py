"""Programs whose standard output or errors are closed, full, or no longer read."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_data import short_command

ROOT = Path(__file__).parents[2]
# Redirections of the shell; descriptor 3 is a pipe whose reader has gone
UNREAD = ">&3"
FULL = ">/dev/full"
CLOSED = ">&- 2>&-"


def run_in_shell(redirection: str, argv: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Run a Python program with its output redirected."""
    argv = ["bash", "-c", f'exec 3> >(:); wait $!; "$@" {redirection}', "bash", sys.executable, *argv]
    return subprocess.run(argv, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [UNREAD, FULL, CLOSED])
def test_training_finishes_without_standard_output(place, redirection):
    sizes = ("--n_layers", "1", "--objective", "causal", "--prompt", "none")
    done = run_in_shell(redirection, ["train_HeLLM.py", *short_command(place, *sizes)])
    assert (done.returncode, done.stderr) == (0, "")
    folder = place / "log" / "Small" / "MMHCL"
    assert "test Recall@10" in (folder / "tiny_log.txt").read_text()
    assert "test" in json.loads((folder / "tiny_metrics.jsonl").read_text().splitlines()[-1])


def call_run_program(redirection: str, args: str, **environment: str) -> tuple[int, str, str]:
    """Run a program that is `run_program(args)`; return its exit status, output and errors."""
    program = f"import os, signal, sys; from utils.cli.errors import run_program; sys.exit(run_program({args}))"
    done = run_in_shell(redirection, ["-c", program], **environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("args", ["print, 'a'", "print, 'a' * 10**6"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_unread_output_ends_the_program_silently(args, unbuffered):
    assert call_run_program(UNREAD, args, PYTHONUNBUFFERED=unbuffered) == (128 + signal.SIGPIPE, "", "")


@pytest.mark.parametrize("args", ["print, 'a'", "print, 'a' * 10**6"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_output_is_one_error_line_with_status_1(args, unbuffered):
    error = "error: standard output: No space left on device; make room there, or redirect it\n"
    assert call_run_program(FULL, args, PYTHONUNBUFFERED=unbuffered) == (1, "", error)


@pytest.mark.parametrize("args", ["print, 'a'", "print, 'a' * 10**6"])
def test_closed_output_is_ignored(args):
    assert call_run_program(CLOSED, args) == (0, "", "")


@pytest.mark.parametrize(("encoding", "output"), [("ascii", "?ber ? Tasse\n"), ("utf-8", "Über — Tasse\n")])
def test_unencodable_characters_are_question_marks(encoding, output):
    assert call_run_program("", "print, 'Über — Tasse'", PYTHONIOENCODING=encoding) == (0, output, "")


def test_ctrl_c_is_one_line():
    assert call_run_program("", "os.kill, os.getpid(), signal.SIGINT") == (130, "", "SIGINT: stopped\n")
