"""What a run prints fits 100 columns, and its log 100 with the time."""

import re
from dataclasses import replace

import pytest

from config_HeLLM import PRESETS, Settings
from tests.support.records import epoch, epoch_records, final_record
from utils.cli.layout import LOG_WIDTH, SCREEN_WIDTH
from utils.logs.epoch_lines import epoch_header, epoch_line
from utils.logs.records import EpochRecord, to_jsonl
from utils.logs.run_log import RunLog
from utils.logs.settings_table import nearest_preset, settings_table
from utils.training.pace import Pace


@pytest.mark.parametrize("choose_by", ["val.NDCG@10", "val.MRR@5", "val_unseen.NDCG@10"])
@pytest.mark.parametrize("num_epochs", [1, 25, 1000])
def test_an_epoch_is_a_row_below_its_header(choose_by, num_epochs):
    record = EpochRecord.from_json(epoch(0) | {"val_unseen": epoch(0)["val"]})
    header = epoch_header(num_epochs, choose_by)
    line = epoch_line(record, num_epochs, choose_by, 36_600, is_best=True)
    assert f"1/{num_epochs} " in line
    assert line.endswith("10 h 10 min *")
    assert len(header) == len(line) - len(" *")
    assert len(line) <= LOG_WIDTH + (6 if num_epochs == 1000 else 0)
    for name in ("loss", "Recall@10", "NDCG@20", choose_by.replace("val_unseen.", "unseen ").removeprefix("val.")):
        end = header.index(name) + len(name)
        assert re.fullmatch(r"\d+\.\d{4}", line[:end].split()[-1])


def test_the_line_of_progress_says_what_is_left():
    pace = Pace(0, 25, 400, 18_228, 2_800, 127_596, 7.0, 60.0)
    line = pace.describe(9.8765)
    assert line == ("epoch 1/25, step 400/18228, loss 9.8765, 7 samples/s, left: epoch 4 h 57 min, run 5 d 6 h")
    assert len(line) <= SCREEN_WIDTH


def test_settings_are_shown_as_what_differs_from_the_nearest_preset():
    for name, changes in PRESETS.items():
        assert nearest_preset(Settings(**changes)) == (name, {})
        assert settings_table(Settings(**changes)) == [f"settings: preset {name}"]
    changed = replace(Settings(**PRESETS["best"]), lr=3e-3, data_dir="/a/folder/" * 30, features=("text", "image"))
    lines = settings_table(changed)
    assert lines[0] == "settings: preset best, except"
    assert [line.split()[0] for line in lines[2:]] == ["data_dir", "features", "lr"]
    assert lines[-1].split() == ["lr", "0.003", "0.001"]
    assert max(map(len, lines)) <= LOG_WIDTH


def test_the_end_of_a_run_is_one_table_with_the_inputs_alone(tmp_path, capsys):
    logs = tmp_path / "log" / "Beauty"
    for name in ("baselines/SASRec", "MMHCL/pretrain"):
        path = logs / f"{name}_metrics.jsonl"
        path.parent.mkdir(parents=True)
        record = final_record() if "SASRec" in name else replace(final_record(), test_unseen=None)
        path.write_text(to_jsonl([*epoch_records(0, 1), record]))
    log = RunLog(logs / "MMHCL", "ours", "HeLLM/Beauty")
    log.log_test(final_record())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "best epoch 2 by None, tested on 4 users, 5 users/s"
    assert lines[1].split() == ["Recall@10", "NDCG@10", "Recall@20", "NDCG@20"]
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "test (all items ranked)",
        "test (history removed)",
        "popularity baseline",
        "SASRec alone (all items ranked)",
        "SASRec alone (history removed)",
        "MMHCL alone (history removed)",
        "published best epoch on test (7)",
        "published last epoch (24)",
    ]
    assert len({len(line) for line in lines[1:]}) == 1
    assert max(map(len, lines)) <= LOG_WIDTH
    assert "  test Recall@10 0.500000" in (logs / "MMHCL" / "ours_log.txt").read_text()


def test_inputs_that_are_tested_on_other_users_or_damaged_are_left_out(tmp_path, capsys):
    path = tmp_path / "baselines" / "SASRec_metrics.jsonl"
    path.parent.mkdir()
    for text in (to_jsonl([replace(final_record(), users=5)]), "damaged\n"):
        path.write_text(text)
        RunLog(tmp_path / "MMHCL", "ours", "").log_test(final_record())
        assert "SASRec" not in capsys.readouterr().out


def test_results_are_paths_that_exist_and_a_command(tmp_path, capsys):
    log = RunLog(tmp_path, "ours", "")
    log.write_metrics(epoch_records(0))
    log.info("a line")
    log.log_results([tmp_path / "best_adapter.pt"], ["python", "-m", "utils.recommend", "--user", "#0"])
    printed = capsys.readouterr().out.splitlines()[1:]
    assert printed[0] == f"Results: {tmp_path}/ours_log.txt"
    assert [line.strip() for line in printed[1:4]] == ["_metrics.jsonl", "_curves.png", f"{tmp_path}/best_adapter.pt"]
    assert printed[4] == "Next:    python -m utils.recommend --user '#0'"


def test_a_run_of_a_sweep_leaves_the_screen_and_keeps_its_log(tmp_path, capsys):
    log = RunLog(tmp_path, "ours", "")
    log.leave_screen()
    log.info("a line")
    assert capsys.readouterr().out == ""
    assert "a line" in (tmp_path / "ours_log.txt").read_text()
