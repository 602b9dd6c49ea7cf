"""Help and mistakes on the command line answer before torch is imported, which takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "train_HeLLM": [],
    "preprocess.amazon": [],
    "preprocess.own": ["table.csv"],
    "preprocess.features text": [],
    "preprocess.features image": [],
    "preprocess.features import": ["matrix.npy"],
    "preprocess.tables": [],
    "preprocess.pretrain_graph": [],
    "preprocess.pretrain_sasrec": [],
    "preprocess.check": [],
    "utils.report": ["log"],
    "utils.recommend": ["--run", "run", "--user", "0"],
    "utils.baselines": [],
    "utils.ensemble": ["a", "b", "--out", "both"],
    "utils.benchmark": [],
}
HEAVY = {"torch", "matplotlib", "transformers"}


def start(program: str, *argv: str) -> tuple[subprocess.CompletedProcess, set[str]]:
    """Run a program; return its output, and which of the slow modules it has imported."""
    command = [sys.executable, "-X", "importtime", "-m", *program.split(), *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert modules
    return done, modules & HEAVY


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_no_slow_module(program):
    done, slow = start(program, "--help")
    assert (done.returncode, slow) == (0, set())
    assert "usage: " in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_mistake_on_the_command_line_imports_no_slow_module(program):
    done, slow = start(program, *PROGRAMS[program], "--no_such_flag", "1")
    assert (done.returncode, slow) == (2, set())
    assert done.stderr.splitlines()[-1].startswith("error: ")
