"""Files that are never half written, by several at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from utils.io.atomic import atomic_write

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from utils.io.atomic import atomic_write
for number in range(200):
    with atomic_write(Path(sys.argv[1])) as temporary:
        temporary.write_text(sys.argv[2] * 5000)
"""


def test_processes_that_write_the_same_file_take_turns(tmp_path):
    path = tmp_path / "table.md"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, letter], cwd=ROOT, stderr=subprocess.PIPE, text=True) for letter in "ab"]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    assert path.read_text() in {letter * 5000 for letter in "ab"}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    path = tmp_path / "table.md"
    kill = "import os; from pathlib import Path; from utils.io.atomic import atomic_write\n"
    kill += f"with atomic_write(Path({str(path)!r})) as temporary: temporary.write_text('cut short'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", kill], cwd=ROOT).returncode == -9
    assert [file.read_text() for file in tmp_path.iterdir()] == ["cut short"] and not path.exists()
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "whole"


def test_a_block_that_fails_leaves_the_file_and_holds_up_nobody(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("before")
    with pytest.raises(ValueError, match="no"), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ValueError("no")
    assert path.read_text() == "before"
    with atomic_write(path) as temporary:
        temporary.write_text("after")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "after"
