"""The tools that measure costs, on the small dataset: what they run, count and print."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.support.small_data import N_ITEMS, N_USERS, sequences, write_interactions, write_texts
from utils.benchmark import command as benchmark
from utils.benchmark import pipeline
from utils.benchmark.growth import STAGES, write_copies
from utils.benchmark.measure import in_own_process, time_parts
from utils.benchmark.trainings import OpenTraining

N_TARGETS = sum(len(items) - 3 for items in sequences())  # all but a user's first item and both held-out ones


@pytest.fixture
def small(tmp_path) -> list[str]:
    """Write the interaction file and texts; return the flags that name them."""
    write_texts(write_interactions(tmp_path / "data"))
    return ["--dataset", "Small", "--data_dir", str(tmp_path / "data")]


def table(shown: str, first_cell: str) -> dict[str, list[str]]:
    """Return the rows of a printed Markdown table by their first cell, without the heading."""
    lines = shown.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_cell}")) + 2
    rows = {}
    for line in lines[first:]:
        if not line.startswith("| "):
            break
        name, *cells = line.strip("| ").split(" | ")
        rows[name] = cells
    return rows


def number(cell: str) -> float:
    return float(cell.replace(",", "").rstrip("*"))


def test_parts_are_timed_until_the_limit_and_all_of_them_below_it():
    calls = []
    parts = [lambda: calls.append(1)] * 4
    assert time_parts(parts, limit=-1.0)[1] == len(calls) == 1
    assert time_parts(parts, limit=1e9)[1] == 4


def test_timed_batches_are_spread_over_all_sizes():
    training = OpenTraining(None, None, list(range(100)), lambda batch: batch, None, None)
    assert sorted(training.sample_batches(4)) == [12, 37, 62, 87]
    assert sorted(training.sample_batches(1000)) == list(range(100))


def test_copies_repeat_every_user_on_variants_of_the_same_items(small, tmp_path):
    source = tmp_path / "data/sequential/Small/Small.txt"
    data = write_copies(source, 3, tmp_path / "copies", "Small")
    rows = [data.kept_items(user) for user in range(data.n_users)]
    assert [(row % N_ITEMS).tolist() for row in rows] == sequences() * 3
    assert data.n_items > 2 * N_ITEMS
    assert len(np.unique(data.items)) > 2 * N_ITEMS


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_measurement_is_reported():
    with pytest.raises(MemoryError, match="killed"):
        in_own_process(_killed)


@pytest.mark.slow
def test_peers_counts_the_targets_of_every_training(small, capsys):
    assert benchmark.main(["peers", *small]) == 0
    rows = table(capsys.readouterr().out, "training")
    assert list(rows) == ["SASRec", "MMHCL", "best"]
    assert number(rows["best"][2]) == N_TARGETS
    assert number(rows["MMHCL"][2]) == N_USERS  # one step with every user
    for cells in rows.values():
        assert all(number(cell) > 0 for cell in cells[4:])


@pytest.mark.slow
def test_growth_prints_seconds_and_memory_of_every_stage(small, capsys):
    assert benchmark.main(["growth", *small, "--copies", "1,2", "--limit", "0.5"]) == 0
    shown = capsys.readouterr().out
    assert f"x2: {2 * N_USERS} users" in shown
    for first_cell in ("seconds", "peak GB"):
        rows = table(shown, first_cell)
        assert list(rows) == list(STAGES)
        assert all(len(cells) == 3 and number(cells[1]) >= 0 for cells in rows.values())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["best", "sasrec", "mmhcl", "score"])
def test_profile_lists_the_slowest_operations(what, small, capsys):
    assert benchmark.main(["profile", *small, "--what", what]) == 0
    shares = [number(cells[0].rstrip("%")) for cells in table(capsys.readouterr().out, "operation").values()]
    assert len(shares) == 10
    assert sorted(shares, reverse=True) == shares
    assert 0 < sum(shares) <= 100.1  # rounded


@pytest.mark.slow
def test_pipeline_runs_every_stage_and_replaces_nothing(small, tmp_path, capfd, monkeypatch):
    stage_commands = pipeline.stage_commands

    def short_commands(*args) -> dict[str, list[str]]:
        """Return the commands with one epoch each, and none that needs an optional package."""
        commands = stage_commands(*args)
        trained = {name: [*commands[name], "--num_epochs", "1"] for name in pipeline.TESTED}
        return {"text_feat.npz": commands["text_feat.npz"]} | trained

    monkeypatch.setattr(pipeline, "stage_commands", short_commands)
    folder = tmp_path / "data/sequential/Small"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert benchmark.main(["pipeline", *small]) == 0
    shown = capfd.readouterr().out
    rows = table(shown, "stage, Small")
    assert list(rows) == ["text_feat.npz", "MMHCL", "SASRec", "best", "all"]
    assert all(number(cell) > 0 for cells in rows.values() for cell in cells)
    assert len(re.findall(r"^(?:MMHCL|SASRec|best), test, .*Recall@10", shown, re.M)) == 5
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["growth", "--copies", "1"], "--copies 1: two or more"),
        (["growth", "--copies", "10,1"], "--copies 10,1: two or more"),
        (["growth", "--copies", "1,many"], "--copies 1,many: two or more"),
        (["growth", "--limit", "0"], "--limit 0"),
        (["peers", "--dataset", "../Beauty"], "../Beauty"),
    ],
)
def test_invalid_flags_end_with_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(flags)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("name", ["pipeline", "growth"])
def test_a_missing_dataset_ends_with_one_line(name, tmp_path, capsys):
    assert benchmark.main([name, "--dataset", "None", "--data_dir", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert str(Path(tmp_path) / "sequential" / "None") in shown
    assert shown.count("\n") == 1
