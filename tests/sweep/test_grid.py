"""The command line of a sweep: its grid, the names of its runs, its shards."""

import pytest

import train_HeLLM
from config_HeLLM import SWEEP, parse_args
from tests.support.small_data import short_command
from utils.sweep.command import parse_command
from utils.sweep.grid import grid_runs, run_suffix
from utils.sweep.runner import shard_runs

GRID = ("--sweep", "lr=1e-3,3e-3", "adapter_len=2,3,4")


def exit_status(argv):
    try:
        return train_HeLLM.main(argv)
    except SystemExit as stop:
        return stop.code


def test_shards_divide_the_runs():
    commands = [parse_command([*GRID, "--sweep_shard", f"{number}/4"]) for number in (1, 2, 3, 4)]
    parts = [shard_runs(grid_runs(one), one.shard) for one in commands]
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    assert len({settings.target for part in parts for settings in part}) == 6


def test_a_sweep_in_the_config(monkeypatch):
    monkeypatch.setitem(SWEEP, "lr", [1e-4, 0.25])
    monkeypatch.setitem(SWEEP, "lora_targets", [("w1",), ["w1", "wq"]])
    monkeypatch.setitem(SWEEP, "graph_adapter", [True, False])
    runs = grid_runs(parse_command(["--preset", "best", "--seed", "3"]))
    assert [run.title for run in runs[:3]] == [
        "best-lr1e-4-lora_targetsw1-graph_adapter",
        "best-lr1e-4-lora_targetsw1-no-graph_adapter",
        "best-lr1e-4-lora_targetsw1+wq-graph_adapter",
    ]
    assert len(runs) == 8
    flags = ("--lr", "0.25", "--lora_targets", "w1,wq", "--no-graph_adapter", "--resume")
    assert runs[-1].settings == parse_args(["--preset", "best", "--seed", "3", *flags, "--target", runs[-1].title])
    assert len(grid_runs(parse_command(["--sweep", "seed=1,2", "wd=0"]))) == 2  # flags replace SWEEP


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (["lr"], "SWEEP in config_HeLLM.py is ['lr'], expected a dictionary of settings to lists"),
        ("lr=3", "SWEEP in config_HeLLM.py is 'lr=3', expected a dictionary"),
        ({"lr": [[1]]}, "SWEEP in config_HeLLM.py: lr is [1], expected one value"),
        ({"lora_targets": [["w1", 3]]}, "lora_targets 3: not among"),
        ({"lr": 3}, "SWEEP in config_HeLLM.py: lr is 3, expected a list of values"),
    ],
)
def test_an_invalid_sweep_in_the_config_is_one_line(place, monkeypatch, capsys, sweep, message):
    monkeypatch.setattr("utils.sweep.command.SWEEP", sweep)
    assert exit_status(short_command(place, "--w_lora")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("value", "name"),
    [(1e-4, "x1e-4"), (0.3, "x0.3"), (16.0, "x16"), (0.00025, "x2.5e-4"), (8, "x8"), ("a/b c", "xa_b_c"), (-1, "x-1")],
)
def test_suffixes_of_targets_are_short_file_names(value, name):
    assert run_suffix("x", value) == name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sweep", "lr=1e-4,-1"), "--lr -1.0: above 0"),
        (("--sweep", "lora_r=8,many"), "--lora_r: invalid int value: 'many'"),
        (("--sweep", "lr=1e-4,0.0001"), "the same run twice: tiny-lr1e-4"),
        (("--sweep", "rate=1,2"), "--sweep rate: no such setting"),
        (("--sweep", "target=a,b"), "--sweep target: must be the same for all runs"),
        (("--sweep", "lr"), "--sweep lr: expected NAME=VALUE,VALUE"),
        (("--sweep", "lr=1,,2"), "--sweep lr=1,,2: expected NAME=VALUE,VALUE"),
        (("--sweep", "lr=1,2", "lr=3"), "--sweep lr: given twice"),
        (("--sweep", "ablation", "lr=1,2"), "--sweep ablation: expected NAME=VALUE,VALUE … or, alone, ablation"),
        (("--sweep", "w_lora=yes,no"), "--sweep w_lora=yes: expected true or false"),
        (("--sweep", "head=tied,tide"), "--head: invalid choice: 'tide'"),
        (("--sweep",), "expected at least one argument"),
        ((*GRID, "--sweep_shard", "5/4"), "--sweep_shard: 5/4: expected I/N"),
        (("--sweep_shard", "1/4"), "--sweep_shard without --sweep"),
        (("--sweep", "GNNModel=MMHCL,Other"), "tiny-GNNModelOther: "),
        (("--sweep", "train_base=true,false"), "tiny-no-train_base: tiny: no such folder of base weights"),
        (("--sweep", "lora_r=2,4", "lora_targets=w1,w9", "--w_lora"), "targets w9"),
        (("--sweep", "prompt=bos,alpaca"), "tokenizer missing"),
    ],
)
def test_an_invalid_run_is_one_line_before_the_first_starts(place, flags, message, capsys):
    assert exit_status(short_command(place, *flags)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (place / "output").exists()
    assert not (place / "log").exists()
