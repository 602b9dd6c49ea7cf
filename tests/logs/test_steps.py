"""The record of a training's steps."""

import csv
import json
from importlib.util import find_spec

import pytest

import train_HeLLM
from tests.support.small_data import command, short_command
from utils.logs.steps import HEADER, StepLog, StepRow
from utils.runtime.signals import StopTraining
from utils.training.loop import TrainingLoop


def row(epoch, step):
    return StepRow(epoch, step, 1.5, 1e-3, 10.0, None)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def positions(path):
    return [(int(line["epoch"]), int(line["step"])) for line in read(path)]


def test_rows_behind_a_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "new" / "a_steps.csv"
    log = StepLog(path)
    log.resume(1, 0)  # nothing to do without a file
    for position in ((1, 10), (1, 18), (2, 10), (2, 18), (3, 10)):
        log.add(row(*position), 0)
    assert path.read_text().splitlines()[0] == HEADER
    log.resume(2, 10)
    assert positions(path) == [(1, 10), (1, 18), (2, 10)]
    log.resume(2, 0)
    assert positions(path) == [(1, 10), (1, 18)]


def test_a_row_that_is_cut_short_is_dropped(tmp_path):
    path = tmp_path / "a_steps.csv"
    log = StepLog(path)
    log.add(row(1, 10), 10)
    with path.open("a") as file:
        file.write("1,1")
    log.resume(1, 18)
    assert positions(path) == [(1, 10)]


@pytest.mark.slow
def test_a_run_records_a_row_per_read_out_and_none_twice_when_it_is_resumed(place, monkeypatch):
    flags = ("--n_layers", "1", "--batch_size", "16", "--log_every", "10", "--save_every_minutes", "0")
    assert train_HeLLM.main(command(place, *flags, "--target", "whole")) == 0
    path = place / "log" / "Small" / "MMHCL" / "whole_steps.csv"
    whole = read(path)
    assert list(whole[0]) == HEADER.split(",")
    assert [line["epoch"] for line in whole] == sorted(line["epoch"] for line in whole)
    records = [json.loads(line) for line in path.with_name("whole_metrics.jsonl").read_text().splitlines()]
    losses = [float(line["loss"]) for line in whole if line["epoch"] == "1"]
    assert sum(losses) / len(losses) == pytest.approx(records[0]["train_loss"], rel=1e-4)  # a row per step here

    step = TrainingLoop.step

    def stopped(self, *args):
        if (self.progress.epoch, self.progress.step) == (1, 7):
            raise StopTraining("stopped", 1)
        return step(self, *args)

    monkeypatch.setattr(TrainingLoop, "step", stopped)
    assert train_HeLLM.main(command(place, *flags, "--target", "short")) == 1
    monkeypatch.undo()
    path = path.with_name("short_steps.csv")
    with path.open("a") as file:
        file.write("2,8,9.9,1e-3,1.0,\n")  # a step whose checkpoint was lost
    assert train_HeLLM.main(command(place, *flags, "--target", "short", "--resume")) == 0
    columns = ("epoch", "step", "loss", "lr")
    assert [[line[name] for name in columns] for line in read(path)] == [
        [line[name] for name in columns] for line in whole
    ]


@pytest.mark.slow
def test_tensorboard_gets_the_steps_or_is_asked_for_in_one_line(place, capsys):
    argv = short_command(place, "--tensorboard", "--n_layers", "1")
    folder = place / "log" / "Small" / "MMHCL"
    if find_spec("tensorboard") is None:
        assert train_HeLLM.main(argv) == 2
        assert capsys.readouterr().err == (
            "error: --tensorboard: the package tensorboard is not installed; pip install -r requirements-extras.txt\n"
        )
        assert not folder.exists()
        return
    assert train_HeLLM.main(argv) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tiny_tensorboard"))
    events.Reload()
    assert len(events.Scalars("training/loss")) == len(read(folder / "tiny_steps.csv"))
    assert len(events.Scalars("val/NDCG@10")) == 1
