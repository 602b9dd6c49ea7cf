"""Files as people have them: each folder of `../shared/cases`, run by its own command, has the outcome that it should.

A folder holds the files and `cmd`, whose CASE is the folder itself and OUT an empty data folder.
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = ROOT.parent / "shared" / "cases"


@dataclass
class Outcome:
    """What the commands of a case did."""

    status: int  # of the last command
    out: str  # of all commands
    err: str
    data: Path  # the data folder

    def text(self, name: str) -> str:
        """Return the content of a file of the dataset X."""
        return (self.data / "sequential" / "X" / name).read_text(encoding="utf-8")

    def sequences(self) -> dict[str, list[str]]:
        """Return the items of each user, oldest first, by the ids of the raw files in percent-encoding."""
        users, items = (self._ids(f"{kind}_id_mapping.csv") for kind in "ui")
        rows = [line.split() for line in self.text("X.txt").splitlines()]
        return {users[user]: [items[item] for item in row] for user, *row in rows}

    def titles(self) -> dict[str, str]:
        """Return the title of each item that has a text."""
        rows = [line.split("\t") for line in self.text("item_text.tsv").splitlines()[1:]]
        return {row[1]: row[2] for row in rows}

    def _ids(self, name: str) -> dict[str, str]:
        return dict(line.split(",") for line in self.text(name).splitlines()[1:])


def refused(outcome: Outcome, pattern: str) -> None:
    """Check that the last command ended with status 2 and one line that matches a pattern."""
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert re.search(pattern, outcome.err), outcome.err


# ---------------------------------------------------------------- what each case should come to, one part per kind

SHAPE: dict[str, Callable[[Outcome], None]] = {}

VALUES: dict[str, Callable[[Outcome], None]] = {}


def float_ids_in_one_file_only(outcome: Outcome) -> None:
    """Check ids that are 100 in the item file and 100.0 in the interactions."""
    assert outcome.status == 0
    assert list(outcome.titles().values()) == [f"Lamp number {n}" for n in range(7)]
    assert "7 of 7" in outcome.out


def features_in_the_order_of_numbers(outcome: Outcome) -> None:
    """Check that row i of the features is item i of the other project."""
    assert outcome.status == 0
    assert outcome.text("i_id_mapping.csv").split()[1:] == [f"{n},{n}" for n in range(12)]
    assert re.search(r"ok +image_feat.npy +12 x 4\n", outcome.out)
    assert "no image_ids.txt: row i is item i of i_id_mapping.csv" in outcome.out


def another_name_of_the_item_column(outcome: Outcome) -> None:
    """Check an item file that calls its ids id."""
    assert outcome.status == 0
    assert outcome.titles() == {str(n): f'The "{n}" Ärtists' for n in range(7)}


ITEM_SIDE: dict[str, Callable[[Outcome], None]] = {
    "D08_mmrec_feature_order": features_in_the_order_of_numbers,
    "D15_float_ids_vs_int": float_ids_in_one_file_only,
    "D28_lastfm_hetrec": another_name_of_the_item_column,
    "D43b_chinese_titles_one_shared_word": lambda outcome: refused(outcome, "not written: all rows are equal"),
}

AMAZON: dict[str, Callable[[Outcome], None]] = {}

EXPECTED = SHAPE | VALUES | ITEM_SIDE | AMAZON


# ---------------------------------------------------------------- running them


def run(line: str, capsys) -> tuple[int, str, str]:
    """Run one command and return status, standard output and standard error; a program of ours in this process."""
    words = shlex.split(line)
    if words[:2] == ["python", "-m"] and not {"|", ";"} & set(line):
        capsys.readouterr()
        try:
            status = importlib.import_module(words[2]).main(words[3:])
        except SystemExit as stop:  # an invalid command line
            status = stop.code
        return status, *capsys.readouterr()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize("name", EXPECTED)
def test_case_has_the_outcome_that_it_should(tmp_path, capsys, name):
    case = CASES / name
    data = tmp_path / "data"
    data.mkdir()
    if name.startswith("A"):
        raw = shutil.ignore_patterns("cmd")
        shutil.copytree(case, data / "raw", ignore=raw)
    commands = (case / "cmd").read_text().replace("CASE", str(case)).replace("OUT", str(data))
    outcome = Outcome(0, "", "", data)
    for line in commands.splitlines():
        outcome.status, out, err = run(line, capsys)
        outcome.out += out
        outcome.err += err
    EXPECTED[name](outcome)
