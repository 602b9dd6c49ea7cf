"""The files that a run writes into its log folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import train_HeLLM
from config_HeLLM import parse_args
from preprocess import pretrain_sasrec
from tests.support.bad_files import tree
from tests.support.records import RANK, epoch_records, final_record, last
from tests.support.small_data import short_command
from utils.baselines import baselines
from utils.evaluation.metrics import Ranking
from utils.io.disk_full import DiskFullError
from utils.logs.curves import curves_figure
from utils.logs.published import KEPT, published_log, published_tests
from utils.logs.run_log import (
    NON_DEFAULT_SETTINGS,
    SETTINGS,
    RunLog,
    log_folder,
    read_settings,
    settings_line,
)
from utils.training.build import open_log

ROOT = Path(__file__).parents[2]


def test_published_metrics_are_those_of_the_released_logs():
    beauty = published_tests(published_log("HeLLM/Beauty"))
    assert list(beauty) == ["best epoch on test (7)", "last epoch (24)"]
    expected = [[0.0682, 0.0354, 0.1022, 0.0439], [0.0651, 0.0392, 0.0872, 0.0448]]
    assert [list(values.values()) for values in beauty.values()] == [pytest.approx(row, abs=6e-5) for row in expected]
    sports = published_tests(published_log("HeLLM/Sports_and_Outdoors"))
    assert list(sports) == ["best epoch on test (8)", "last epoch (19)"]
    assert published_tests(published_log("MMHCL/Toys_and_Games"))["test"]["NDCG@20"] == pytest.approx(0.03188)
    assert published_tests(published_log("SASRec/Beauty")) == {}


def test_the_log_of_a_test_ends_with_the_published_metrics(tmp_path, capsys):
    RunLog(tmp_path, "ours", "HeLLM/Beauty").log_test(final_record())
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("published best epoch on test (7)"))
    assert line.split()[-4:] == ["0.0682", "0.0354", "0.1022", "0.0439"]
    RunLog(tmp_path, "other", "HeLLM/Small").log_test(final_record())
    assert "published" not in capsys.readouterr().out


def test_lines_are_printed_and_logged_with_the_time(tmp_path, capsys):
    log = RunLog(tmp_path / "new" / "folder", "ours", "")
    log.info("Über 100 %d")
    log.close()
    log.info("again")  # opens the file again
    assert capsys.readouterr().out == "Über 100 %d\nagain\n"
    lines = (tmp_path / "new" / "folder" / "ours_log.txt").read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in lines] == ["Über 100 %d", "again"]


def test_a_closed_log_holds_no_open_file(tmp_path):
    def open_files():
        return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()}

    log = RunLog(tmp_path, "ours", "")
    log.info("a line")
    assert str(tmp_path / "ours_log.txt") in open_files()
    log.close()
    assert str(tmp_path / "ours_log.txt") not in open_files()


def test_a_full_disk_of_the_log_is_an_error_that_names_it(tmp_path, capsys):
    (tmp_path / "ours_log.txt").symlink_to("/dev/full")
    log = RunLog(tmp_path, "ours", "")
    for _ in range(2):
        with pytest.raises(DiskFullError, match="ours_log.txt: no room on the disk at "):
            log.info("a line")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_settings_in_a_log_are_read_back(tmp_path):
    settings = {"lora_targets": ("w1", "wq"), "w_lora": False, "lr": 3e-4, "model_name": "a}: {'b\n"}
    expected = settings | {"lora_targets": ["w1", "wq"]}
    for title in (SETTINGS, NON_DEFAULT_SETTINGS):
        log = RunLog(tmp_path, title, "")
        log.info("resumed at epoch 1, step 0")
        assert read_settings(tmp_path / f"{title}_log.txt") == ("", {})
        log.info(settings_line(title, settings))
        log.info(settings_line(title, {"of": "a later run"}))
        assert read_settings(tmp_path / f"{title}_log.txt") == (title, expected)


def test_settings_under_the_title_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "old_log.txt"
    path.write_text('2026-01-01 00:00:00  settings beside the published ones: {"lr": 0.01}\n')
    assert read_settings(path) == (NON_DEFAULT_SETTINGS, {"lr": 0.01})
    kept = [read_settings(path) for path in KEPT.glob("*/*/best*_log.txt")]
    assert len(kept) > 20
    assert all(title == NON_DEFAULT_SETTINGS and settings for title, settings in kept)


def test_files_of_a_finished_run_and_their_removal(tmp_path):
    folder = tmp_path / "log"
    log = RunLog(folder, "ours", "HeLLM/Beauty")
    log.write_final(epoch_records(0, 1), final_record(), Ranking(RANK, RANK - (RANK > 1), 1.0))
    written = [json.loads(line) for line in (folder / "ours_metrics.jsonl").read_text().splitlines()]
    assert written[-1] == last() | {"seconds": 4.0}
    with np.load(folder / "ours_ranks.npz") as ranks:
        assert ranks["seen_removed"].tolist() == [1, 3, 10, 299]
    (folder / "ours_failed.txt").write_text("not finite\n")
    log.remove_failure()
    assert {path.name for path in folder.iterdir()} == {"ours_metrics.jsonl", "ours_ranks.npz", "ours_curves.png"}
    log.info("a line")
    log.clear()
    assert list(folder.iterdir()) == []
    log.info("a line of the next run")
    assert [path.name for path in folder.iterdir()] == ["ours_log.txt"]


def test_a_quiet_log_writes_and_prints_nothing(tmp_path, capsys):
    log = RunLog(tmp_path / "quiet", "ours", "", quiet=True)
    log.info("a line")
    log.write_final(epoch_records(0), final_record(), Ranking(RANK, RANK, 1.0))
    assert not (tmp_path / "quiet").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("real_curves")
def test_the_curves_show_the_test_once_there_is_one(tmp_path):
    plots = []
    for final in (None, final_record()):
        RunLog(tmp_path, "ours", "").write_metrics(epoch_records(0, 1), final)
        plots.append((tmp_path / "ours_curves.png").read_bytes())
    assert plots[0] != plots[1]


def test_curves_have_a_panel_of_each_metric_and_a_legend_outside():
    published = published_log("HeLLM/Beauty")
    figure = curves_figure("Beauty, MMHCL/best, seed 7", epoch_records(0, 1), final_record(), published, True)
    assert figure.get_suptitle() == "Beauty, MMHCL/best, seed 7"
    assert [axes.get_title() for axes in figure.axes] == [
        "training loss (nats)",
        "validation Recall",
        "validation NDCG",
    ]
    for axes in figure.axes:
        assert any(list(line.get_xdata()) == [1, 1] for line in axes.lines)  # the chosen epoch
        assert axes.get_legend() is None
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= max(axes.get_window_extent().x1 for axes in figure.axes)
    assert box.x1 <= figure.bbox.x1
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["@10", "@20", "chosen epoch, 1", "its test", "published test"]
    unfinished = curves_figure("", epoch_records(0, 1), None, {}, True)
    assert [text.get_text() for text in unfinished.legends[0].get_texts()] == ["@10", "@20"]


@pytest.mark.parametrize("is_published_loss", [True, False])
def test_the_published_loss_is_plotted_beside_the_same_loss_only(is_published_loss):
    published = published_log("HeLLM/Beauty")
    loss, recall, _ = curves_figure("", epoch_records(0, 1), None, published, is_published_loss).axes
    assert len(loss.lines) == 1 + is_published_loss
    assert len(recall.lines) == 4


def test_the_curves_of_a_run_are_titled_by_dataset_name_and_seed(place):
    for flags, is_published_loss in (
        (["--seed", "7"], True),
        (["--objective", "causal", "--prompt", "none"], False),
        (["--label_smoothing", "0.1"], False),
        (["--n_negatives", "5"], False),
    ):
        log = open_log(parse_args(short_command(place, "--target", "mine", *flags)))
        assert log.is_published_loss == is_published_loss
        assert log.title == f"Small, MMHCL/mine, seed {7 if is_published_loss else 2024}"
    assert RunLog(place / "log" / "Small" / "MMHCL", "both", "").title == "Small, MMHCL/both"


@pytest.mark.usefixtures("real_curves")
@pytest.mark.parametrize("target", ["a$_$b", "$\\frac$", "a\\$b"])
def test_a_dollar_in_a_target_is_not_parsed_as_math(tmp_path, target, capsys):
    RunLog(tmp_path, target, "").write_metrics(epoch_records(0))
    assert (tmp_path / f"{target}_curves.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_curves_that_can_not_be_plotted_do_not_end_the_run(tmp_path):
    program = (
        "import sys; from tests.logs.test_run_log import RunLog, epoch_records; "
        "RunLog(sys.argv[1], 'a', '').write_metrics(epoch_records(0))"
    )
    argv = [sys.executable, "-c", program, str(tmp_path)]
    environment = os.environ | {"MPLBACKEND": "nonsense"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path}/a_curves.png not plotted: ")
    assert done.stdout.count("\n") == 1
    assert "nonsense" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"a_log.txt", "a_metrics.jsonl"}


@pytest.mark.parametrize("logging_dir", [KEPT, KEPT / "Beauty", KEPT.parent / "new" / ".." / "kept" / "new"])
def test_the_kept_runs_are_read_only(logging_dir):
    for attempt in (lambda: log_folder(logging_dir, "Beauty", "MMHCL"), lambda: RunLog(logging_dir, "best", "")):
        with pytest.raises(ValueError, match="log/kept is read-only, .* use another --logging_dir"):
            attempt()


@pytest.mark.parametrize("link", ["log", "log/Beauty"])
def test_a_link_to_the_kept_runs_is_read_only(tmp_path, link):
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(KEPT)
    with pytest.raises(ValueError, match="log/kept is read-only"):
        log_folder(tmp_path / "log", "Beauty", "MMHCL")


def test_no_program_writes_into_the_kept_runs(place, capsys):
    before = tree(place), tree(KEPT)
    train = short_command(place)
    data = ["--dataset", "Small", "--data_dir", str(place / "data"), "--output_dir", str(place / "output")]
    for main, argv in (
        (train_HeLLM.main, train),
        (train_HeLLM.main, [*train, "--sweep", "lr=1e-3,3e-3"]),
        (pretrain_sasrec.main, [*data, "--overwrite"]),
        (baselines.main, data),
    ):
        capsys.readouterr()
        assert main([*argv, "--logging_dir", str(KEPT)]) == 2
        error = capsys.readouterr().err
        assert "log/kept is read-only" in error
        assert error.count("\n") == 1
        assert (tree(place), tree(KEPT)) == before
