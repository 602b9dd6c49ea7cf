"""What utils.benchmark prints, on the small data."""

import re

import pytest

from tests.small_data import command, write_dataset
from utils import benchmark


@pytest.fixture
def place(tmp_path):
    write_dataset(tmp_path / "data")
    return tmp_path


def test_training_cost_of_two_settings(place, capsys):
    prefix, causal = command(place), command(place, "--objective", "causal", "--prompt", "none")
    assert benchmark.main(["train", *prefix, "--vs", *causal]) == 0
    shown = capsys.readouterr().out
    flops = [float(value) for value in re.findall(r"([\d.]+) GFLOP a training sample", shown)]
    speeds = [float(value.replace(",", "")) for value in re.findall(r"([\d,.]+) samples/s,", shown)]
    epochs = [int(value) for value in re.findall(r"s an epoch of (\d+) samples", shown)]
    ratio = float(re.search(r"second to first: ([\d.]+)", shown)[1])
    assert flops[0] > 2 * flops[1] > 0  # a history has five items
    assert len(speeds) == 2 and epochs[0] == epochs[1] > 0
    assert ratio > 0


def test_training_cost_needs_a_built_in_size(place, capsys):
    (place / "weights").mkdir()
    assert benchmark.main(["train", *command(place), "--model_name", str(place / "weights")]) == 2
    assert "a built-in size, Llama-2-7b" in capsys.readouterr().err
