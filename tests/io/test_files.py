"""Atomic writes: by several processes, killed ones, failing ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from utils.io.atomic import atomic_write

ROOT = Path(__file__).parents[2]
WRITE_REPEATEDLY = """
import sys
from pathlib import Path
from utils.io.atomic import atomic_write
for _ in range(200):
    with atomic_write(Path(sys.argv[1])) as temporary:
        temporary.write_text(sys.argv[2] * 5000)
"""
WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from utils.io.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("cut short")
    os.kill(os.getpid(), 9)
"""


def test_processes_that_write_the_same_file_take_turns(tmp_path):
    path = tmp_path / "table.md"
    command = [sys.executable, "-c", WRITE_REPEATEDLY, str(path)]
    writers = [subprocess.Popen([*command, letter], cwd=ROOT, stderr=subprocess.PIPE, text=True) for letter in "ab"]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    assert path.read_text() in {letter * 5000 for letter in "ab"}
    assert list(tmp_path.iterdir()) == [path]


def test_next_write_overwrites_the_temporary_file_of_a_killed_process(tmp_path):
    path = tmp_path / "table.md"
    assert subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path)], cwd=ROOT).returncode == -9
    assert [file.read_text() for file in tmp_path.iterdir()] == ["cut short"]
    assert not path.exists()
    with atomic_write(path) as temporary:
        temporary.write_text("complete")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "complete"


def write_half_and_fail(path):
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ValueError("no")


def test_block_that_fails_leaves_the_file_as_it_was_and_no_other(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("before")
    with pytest.raises(ValueError, match="no"):
        write_half_and_fail(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "before"
    with atomic_write(path) as temporary:
        temporary.write_text("after")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "after"


def test_previous_file_is_kept_only_if_the_block_succeeds(tmp_path):
    path = tmp_path / "state.pt"
    previous = tmp_path / "state_before.pt"
    for content in ("first", "second"):
        with atomic_write(path, previous=previous) as temporary:
            temporary.write_text(content)
    with pytest.raises(KeyboardInterrupt), atomic_write(path, previous=previous):
        raise KeyboardInterrupt
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "state.pt": "second",
        "state_before.pt": "first",
    }
