"""The soak test itself: what it samples of a process and how it assesses the samples."""

import json
import os
import re

import pytest

from tests.robustness import soak
from tests.robustness.soak import Sample, assess, take_sample
from tests.support.records import epoch
from tests.support.small_data import command
from utils.runtime.memory import rss_bytes


def make_samples(peak_rss, open_files):
    resources = enumerate(zip(peak_rss, open_files, strict=True))
    return [Sample(10.0 * n, peak, files, 3, 100 + 7 * n, n) for n, (peak, files) in resources]


@pytest.mark.parametrize(
    ("peak_rss", "open_files", "expected"),
    [
        ([1000] * 21, [9] * 21, []),
        ([500, 1000, *[900] * 10, 1019, *[900] * 8], [4, *[9, 11] * 10], []),  # some files are open for a moment only
        ([1000] * 12 + [1021] + [1000] * 8, [9] * 21, ["resident memory grew by 2.10 %, more than 2 %"]),
        ([1000] * 21, [9] * 11 + [10, 12] * 5, ["open files grew from 9 to 10"]),
    ],
)
def test_growth_of_memory_or_open_files_is_a_problem(peak_rss, open_files, expected):
    lines, problems = assess(make_samples(peak_rss, open_files))
    assert problems == expected
    assert "log and metrics 7 bytes per epoch, 20 epochs in 3.3 minutes" in lines
    assert f"10 % of the time 0.0 MB, after that 0.0 MB, growth {max(peak_rss) / 10 - 100:.2f} %" in lines[0]


def test_too_few_epochs_in_the_warmup_are_the_only_problem():
    _, (problem,) = assess(make_samples([1000, 1500, 1500], [9] * 3))
    assert problem.startswith(
        "fewer than 2 epochs in the first 10 % of the time: too short to tell whether memory grew"
    )


def test_a_sample_has_the_peak_since_the_previous_one(tmp_path):
    logs = [tmp_path / name for name in ("log.txt", "metrics.jsonl")]
    logs[0].write_text("five\n")
    logs[1].write_text(records := f"{json.dumps(epoch(0))}\n{json.dumps(epoch(1))}\n")
    before = take_sample(os.getpid(), 1.0, logs)
    bytearray(2**27).count(1)  # allocated and released
    with logs[0].open():
        peak, after = (take_sample(os.getpid(), 1.0, logs) for _ in range(2))
    assert peak.peak_rss > after.peak_rss + 2**26
    assert after.open_files == before.open_files + 1
    assert after.log_bytes == len("five\n") + len(records)
    assert after.epochs == 2
    assert after.threads >= 1
    assert 0.9 < after.peak_rss / rss_bytes() < 1.1


@pytest.mark.slow
def test_a_soak_too_short_to_judge(place, capsys):
    """An epoch of such small batches takes longer than the time in which there should be two."""
    assert soak.main(["--minutes", "0.05", *command(place, "--batch_size", "4", "--n_layers", "1")]) == 1
    shown = capsys.readouterr().out
    problem = "fewer than 2 epochs in the first 10 % of the time"
    assert shown.splitlines()[-1] == f"{problem}: too short to tell whether memory grew, give more --minutes"
    assert int(re.search(r"([\d,]+) epochs in", shown)[1].replace(",", "")) >= 1
    assert re.search(r"first 10 % of the time [\d.]+ MB, after that [\d.]+ MB, growth -?[\d.]+ %\nopen files", shown)
    assert [path.name for path in place.iterdir()] == ["data"]


@pytest.mark.slow
def test_a_soak_without_data_is_refused(place, capsys):
    (place / "data" / "sequential" / "Small" / "Small.txt").unlink()
    assert soak.main([*command(place)]) == 2
    message = capsys.readouterr().err
    assert "Small.txt" in message
    assert message.count("\n") == message.count("error: ") == 1
