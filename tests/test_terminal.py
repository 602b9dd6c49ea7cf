"""Programs whose standard output or errors are closed, have no room, or are read by nobody any more."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_data import short_command

ROOT = Path(__file__).parents[1]
TRAINING = ("train_HeLLM.py", "--n_layers", "1", "--objective", "causal", "--prompt", "none", "--num_epochs", "1")


def in_shell(tail: str, argv: list[str], **environment: str) -> subprocess.CompletedProcess:
    """A program's end when the shell sends its output somewhere; the status is the program's own."""
    line = f'exec 3>&1; {{ "$@"; echo $? >&3; }} {tail}'
    argv = ["bash", "-c", line, "bash", sys.executable, *argv]
    return subprocess.run(argv, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize("tail", ["| true", "> /dev/full", ">&- 2>&-"])
def test_a_training_goes_on_without_its_terminal(place, tail):
    done = in_shell(tail, ["train_HeLLM.py", *short_command(place, *TRAINING[1:])])
    assert done.stdout.splitlines()[-1:] == ["0"] and done.stderr == ""
    folder = place / "log" / "Small" / "MMHCL"
    assert "test Recall@10" in (folder / "tiny_log.txt").read_text()
    assert "test" in json.loads((folder / "tiny_metrics.jsonl").read_text().splitlines()[-1])
