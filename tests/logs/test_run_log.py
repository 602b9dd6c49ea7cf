"""What a run leaves to read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.evaluation.metrics import ranking_metrics
from utils.evaluation.ranking import Ranking
from utils.logs.published import published_log, published_tests
from utils.logs.records import EpochRecord, FinalRecord, read_metrics, training_seconds
from utils.logs.run_log import NON_DEFAULT_SETTINGS, SETTINGS, RunLog, read_settings, settings_line

RANK = np.array([1, 4, 11, 300])


def epoch(number, seconds=2.0):
    """Return the JSON object of an epoch."""
    values = {"epoch": number, "train_loss": 3.0, "lr": 1e-3, "seconds": seconds, "samples_per_s": 10.0}
    return values | {"val": ranking_metrics(RANK)}


def epochs(*numbers):
    return [EpochRecord.from_json(epoch(number)) for number in numbers]


def final():
    return FinalRecord.from_json(last())


def last():
    """Return the JSON object of a test."""
    values = ranking_metrics(RANK)
    tests = {"test": values, "test_unseen": values, "popularity": values}
    return {"best_epoch": 1, **tests, "users": len(RANK), "users_per_s": 5.0}


ODD = (None, True, "x", [], [1], {}, {"a": "b"}, {"NDCG@10": None}, 1.5, -1, float("nan"), float("inf"), 10**400)
FEW = {"NDCG@10", "Recall@5"}  # metrics, which stand for all others


def damaged(record):
    """A record without each of its keys, or with something odd there, and the same with the objects in it."""
    for key, value in record.items():
        yield {name: other for name, other in record.items() if name != key}
        yield from (record | {key: odd} for odd in ODD)
        if isinstance(value, dict):
            kept = {name: other for name, other in value.items() if "@" in name and name not in FEW}
            inner = {name: other for name, other in value.items() if name not in kept}
            yield from (record | {key: kept | changed} for changed in damaged(inner))


def test_published_figures_are_those_of_the_released_logs():
    beauty = published_tests(published_log("HeLLM/Beauty"))
    assert list(beauty) == ["best epoch on test (7)", "last epoch (24)"]
    expected = [[0.0682, 0.0354, 0.1022, 0.0439], [0.0651, 0.0392, 0.0872, 0.0448]]  # SPEC.md section 5
    assert np.array([list(values.values()) for values in beauty.values()]) == pytest.approx(
        np.array(expected), abs=6e-5
    )
    sports = published_tests(published_log("HeLLM/Sports_and_Outdoors"))
    assert list(sports) == ["best epoch on test (8)", "last epoch (19)"]
    assert published_tests(published_log("MMHCL/Toys_and_Games"))["test"]["NDCG@20"] == pytest.approx(0.03188)
    assert published_tests(published_log("SASRec/Beauty")) == {}


def test_seconds_of_epochs_between_records_count():
    assert training_seconds([EpochRecord.from_json(epoch(n, s)) for n, s in ((4, 2.0), (9, 3.0))]) == 5 * 2 + 5 * 3
    assert training_seconds([]) == 0


def test_the_log_tells_the_published_figures_behind_ours(tmp_path, capsys):
    RunLog(tmp_path, "ours", "HeLLM/Beauty").log_test(final())
    shown = capsys.readouterr().out
    assert (
        "published best epoch on test (7): Recall@10 0.0682  NDCG@10 0.0354  Recall@20 0.1022  NDCG@20 0.0439" in shown
    )
    RunLog(tmp_path, "other", "HeLLM/Small").log_test(final())
    assert "published" not in capsys.readouterr().out


def test_a_log_tells_the_settings_that_it_was_told(tmp_path):
    settings = {"lora_targets": ("w1", "wq"), "w_lora": False, "lr": 3e-4, "model_name": "a}: {'b\n"}
    for title in (SETTINGS, NON_DEFAULT_SETTINGS):
        log = RunLog(tmp_path, title, "")
        log.info("resumed at epoch 1, step 0")
        assert read_settings(tmp_path / f"{title}_log.txt") == ("", {})
        log.info(settings_line(title, settings))
        log.info(settings_line(title, {"of": "a later run"}))
        expected = title, settings | {"lora_targets": ["w1", "wq"]}
        assert read_settings(tmp_path / f"{title}_log.txt") == expected


def test_finished_files_and_their_removal(tmp_path):
    log = RunLog(tmp_path / "log", "ours", "HeLLM/Beauty")
    log.write_final(epochs(0, 1), final(), Ranking(RANK, RANK - (RANK > 1), 1.0))
    assert json.loads((tmp_path / "log" / "ours_metrics.jsonl").read_text().splitlines()[-1]) == last() | {
        "seconds": 4.0
    }
    with np.load(tmp_path / "log" / "ours_ranks.npz") as found:
        assert found["seen_removed"].tolist() == [1, 3, 10, 299]
    (tmp_path / "log" / "ours_failed.txt").write_text("not finite\n")
    log.clear(resumed=True)
    assert {path.name for path in (tmp_path / "log").iterdir()} == {
        f"ours_{name}" for name in ("metrics.jsonl", "ranks.npz", "curves.png")
    }
    log.clear()
    assert list((tmp_path / "log").iterdir()) == []
    RunLog(tmp_path / "quiet", "ours", "", quiet=True).write_final(epochs(0), final(), Ranking(RANK, RANK, 1.0))
    assert not (tmp_path / "quiet").exists()


def test_the_picture_shows_the_test_once_there_is_one(tmp_path):
    pictures = []
    for test in (None, final()):
        RunLog(tmp_path, "ours", "").write_metrics(epochs(0, 1), test)
        pictures.append((tmp_path / "ours_curves.png").read_bytes())
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize("target", ["a$_$b", "$\\frac$", "a\\$b"])
def test_a_name_is_no_formula(tmp_path, target, capsys):
    RunLog(tmp_path, target, "").write_metrics(epochs(0))
    assert (tmp_path / f"{target}_curves.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == ""


def test_a_picture_that_can_not_be_drawn_ends_nothing(tmp_path):
    program = "import sys; from tests.logs.test_run_log import RunLog, epochs; RunLog(sys.argv[1], 'a', '').write_metrics(epochs(0))"
    argv, environment = [sys.executable, "-c", program, str(tmp_path)], os.environ | {"MPLBACKEND": "nonsense"}
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path}/a_curves.png not drawn: ") and done.stdout.count("\n") == 1
    assert "nonsense" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"a_log.txt", "a_metrics.jsonl"}


def test_a_damaged_metrics_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "x_metrics.jsonl"
    for damage in (b'{"epoch": 1, "tr', b"7", b'{"epoch": "\xe9"}', b'{"a": ' + b"[" * 10**5, b"", b"\0"):
        path.write_bytes(json.dumps(epoch(0)).encode() + b"\n" + damage + b"\n")
        with pytest.raises(ValueError, match="x_metrics.jsonl: line 2 is no JSON object"):
            read_metrics(path)
    path.write_text(json.dumps(epoch(0)) + "\n" + json.dumps(epoch(1) | {"seconds": "2"}) + "\n")
    with pytest.raises(ValueError, match="x_metrics.jsonl: line 2: seconds is '2'; give it a number, or remove "):
        read_metrics(path)
