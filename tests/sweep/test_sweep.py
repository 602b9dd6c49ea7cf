"""Sweeps: what they run, what they equal, how they go on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train_HeLLM
from config_HeLLM import SWEEP, non_default_settings, parse_args
from tests.support.records import damaged, epoch, last
from tests.support.small_data import N_ITEMS, RUN_SPECIFIC_KEYS
from tests.support.small_data import short_command as command
from tests.support.small_model import SHAPE, small_hellm, write_meta
from utils.data.input_files import input_checksums
from utils.data.layout import required_files
from utils.runtime.lock import run_lock
from utils.sweep.command import parse_command
from utils.sweep.grid import grid_runs, run_suffix
from utils.sweep.results import finished_record
from utils.sweep.runner import shard_runs
from utils.training.build import build_model, load_data

ROOT = Path(__file__).parents[2]
GRID = ("--sweep", "lr=1e-3,3e-3", "adapter_len=2,3,4")
NAMES = [f"tiny-lr{lr}-adapter_len{n}" for lr in ("1e-3", "3e-3") for n in (2, 3, 4)]


@pytest.fixture
def frozen_base(place):
    """Flags of a run on weights from files that are not trained."""
    state = {name.removeprefix("llama."): p.detach() for name, p in small_hellm(w_lora=False).named_parameters()}
    state = {name: p for name, p in state.items() if name.split(".")[0] in ("tok_embeddings", "layers", "norm")}
    write_meta(place / "weights", state, SHAPE)
    return "--model_name", str(place / "weights"), "--no-train_base", "--w_lora"


def logs(place, name="MMHCL"):
    return place / "log" / "Small" / name


def records(place, target):
    path = logs(place) / f"{target}_metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def finished(place):
    """The bytes of every file that the finished runs have left, by run."""
    names = [name for name in NAMES if records(place, name) and "test" in records(place, name)[-1]]
    return {name: [path.read_bytes() for path in sorted(place.rglob(f"*{name}[_/]*"))] for name in names}


def stop_at(place, target, number):
    """Start the sweep and end it by a signal in the middle of an epoch of one run; returns its exit status."""
    argv = command(place, *GRID, "--save_every_minutes", "0")
    process = subprocess.Popen([sys.executable, "train_HeLLM.py", *argv], cwd=ROOT, stdout=subprocess.DEVNULL)
    state = place / "output" / "Small" / "MMHCL" / target / "training_state.pt"
    while process.poll() is None:
        if state.is_file() and torch.load(state, weights_only=True)["progress"]["step"] > 1:
            process.send_signal(number)
            break
        time.sleep(0.01)
    return process.wait()


def test_a_sweep_of_six_killed_twice_finishes_each_run_once_and_as_if_alone(place, capsys):
    assert stop_at(place, NAMES[1], signal.SIGKILL) == -signal.SIGKILL
    first = finished(place)
    assert list(first) == NAMES[:1] and not records(place, NAMES[1])
    assert stop_at(place, NAMES[3], signal.SIGTERM) == 128 + signal.SIGTERM
    second = finished(place)
    assert list(second) == NAMES[:3] and second[NAMES[0]] == first[NAMES[0]]
    assert train_HeLLM.main(command(place, *GRID)) == 0
    last = finished(place)
    assert list(last) == NAMES and {name: last[name] for name in second} == second
    assert len(list(logs(place).glob("*_metrics.jsonl"))) == 6
    assert capsys.readouterr().out.count("finished before") == 3
    for number, name in enumerate(NAMES):
        *epochs, test = records(place, name)
        assert [record["epoch"] for record in epochs] == [0]
        assert test["settings"]["adapter_len"] == number % 3 + 2
    alone = ("--target", "alone", "--lr", "1e-3", "--adapter_len", "3")
    assert train_HeLLM.main(command(place, *alone)) == 0
    assert_same_run(place, "alone", NAMES[1])


def assert_same_run(place, one, other):
    for a, b in zip(records(place, one), records(place, other), strict=True):
        assert {key: a[key] for key in a.keys() - RUN_SPECIFIC_KEYS} == {
            key: b[key] for key in b.keys() - RUN_SPECIFIC_KEYS
        }
    paths = (place / "output" / "Small" / "MMHCL" / target / "best_adapter.pt" for target in (one, other))
    a, b = (torch.load(path, weights_only=True)["tensors"] for path in paths)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_runs_that_share_a_frozen_base_equal_runs_alone_and_are_ranked(place, frozen_base):
    flags = command(place, *frozen_base, "--target", "sweep", "--dropout", "0.1", "--num_epochs", "2")
    assert train_HeLLM.main([*flags, "--sweep", "lora_r=2,4,8"]) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # between runs nobody would read a note
    assert train_HeLLM.main([*flags, "--target", "alone", "--lora_r", "8"]) == 0
    assert_same_run(place, "alone", "sweep-lora_r8")
    lines = (logs(place) / "sweep_sweep-lora_r.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "| sweep-" in line]
    assert len(rows) == 3
    assert [float(row[2]) for row in rows] == sorted((float(row[2]) for row in rows), reverse=True)
    for row in rows:
        *epochs, last = records(place, row[0])
        assert row[1] == str(last["best_epoch"])
        assert row[2] == f"{max(record['val']['NDCG@10'] for record in epochs):.4f}"
        assert row[3] == f"{last['test']['Recall@10']:.4f}"


def test_a_frozen_base_is_read_once(place, frozen_base):
    shared, models = {}, []
    for more in ((), ("--lora_r", "3"), ("--train_base",), ("--dtype", "bf16")):
        settings = parse_args(command(place, *frozen_base, *more))
        models.append(build_model(settings, load_data(settings)[1], torch.device("cpu"), shared))
    first, second, trained, half = (model.llama.layers[0].attention.wq.weight for model in models)
    assert first.data_ptr() == second.data_ptr()
    assert trained.data_ptr() != first.data_ptr() and torch.equal(trained, first)
    assert half.dtype == torch.bfloat16
    assert not second.requires_grad and trained.requires_grad


def test_a_failed_run_is_listed_and_the_others_go_on(place, capsys):
    folder = place / "output" / "Small" / "MMHCL" / "tiny-lr3e-3"
    folder.mkdir(parents=True)
    (folder / "training_state.pt").write_text("no state")
    assert train_HeLLM.main(command(place, "--sweep", "lr=1e30,3e-3,1e-3")) == 1
    assert "test" in records(place, "tiny-lr1e-3")[-1]
    text = (logs(place) / "tiny_sweep-lr.md").read_text()
    assert text.index("| tiny-lr1e-3 |") < text.index("| tiny-lr1e+30 (failed) |")
    assert "tiny-lr1e+30 failed: " in text and "; try a lower --lr" in text
    assert "training_state.pt: cut short or damaged" in text
    assert "Traceback" not in capsys.readouterr().err
    assert len(list(logs(place).glob("*_failed.txt"))) == 2
    (folder / "training_state.pt").unlink()
    assert train_HeLLM.main(command(place, "--target", "tiny-lr3e-3", "--lr", "3e-3", "--resume")) == 0
    assert [path.name for path in logs(place).glob("*_failed.txt")] == ["tiny-lr1e+30_failed.txt"]


def test_a_shard_that_fails_and_ends_first_is_in_the_last_ones_table(place):
    argv = command(place, "--sweep", "lr=1e30,3e-3")
    assert train_HeLLM.main([*argv, "--sweep_shard", "1/2"]) == 1
    path = logs(place) / "tiny_sweep-lr.md"
    first = path.read_text().splitlines()
    assert train_HeLLM.main([*argv, "--sweep_shard", "2/2"]) == 0  # its own part has not failed
    text = path.read_text()
    assert text.index("| tiny-lr3e-3 |") < text.index("| tiny-lr1e+30 (failed) |") and "(not finished)" not in text
    assert text.splitlines()[-1] == first[-1] and first[-1].startswith("* tiny-lr1e+30 failed: ")
    assert train_HeLLM.main(command(place, "--sweep", "adapter_len=2")) == 0
    assert path.read_text() == text and (logs(place) / "tiny_sweep-adapter_len.md").is_file()


def test_a_run_that_another_process_has_is_left_to_it(place, capsys):
    with run_lock(logs(place) / "tiny-lr1e-3", "_"):
        assert train_HeLLM.main(command(place, "--sweep", "lr=1e-3,3e-3")) == 0
    text = (logs(place) / "tiny_sweep-lr.md").read_text()
    assert "| tiny-lr3e-3 |" in text and "| tiny-lr1e-3 (running elsewhere) |" in text and "failed" not in text
    captured = capsys.readouterr()
    assert "tiny-lr1e-3 running elsewhere: " in captured.out and "held by process " in captured.out
    assert not captured.err.count("Traceback") and not records(place, "tiny-lr1e-3")


def test_a_sweep_in_the_config_and_its_shards(monkeypatch):
    monkeypatch.setitem(SWEEP, "lr", [1e-4, 0.25])
    monkeypatch.setitem(SWEEP, "lora_targets", [("w1",), ["w1", "wq"]])
    monkeypatch.setitem(SWEEP, "graph_adapter", [True, False])
    rows = grid_runs(parse_command(["--preset", "best", "--seed", "3"]))
    assert [row.title for row in rows[:3]] == [
        "best-lr1e-4-lora_targetsw1-graph_adapter",
        "best-lr1e-4-lora_targetsw1-no-graph_adapter",
        "best-lr1e-4-lora_targetsw1+wq-graph_adapter",
    ]
    assert len(rows) == 8
    flags = ("--lr", "0.25", "--lora_targets", "w1,wq", "--no-graph_adapter", "--resume")
    assert rows[-1].settings == parse_args(["--preset", "best", "--seed", "3", *flags, "--target", rows[-1].title])
    assert len(grid_runs(parse_command(["--sweep", "seed=1,2", "wd=0"]))) == 2


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
def test_a_sweep_of_another_kind_in_the_config(place, monkeypatch, capsys, sweep, message):
    monkeypatch.setattr("utils.sweep.command.SWEEP", sweep)
    with pytest.raises(SystemExit) as stop:
        sys.exit(train_HeLLM.main(command(place, "--w_lora")))
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1 and message in told


def test_shards_divide_the_runs(place):
    for shard, done in (("2/2", ["2e-3"]), ("1/2", ["1e-3", "2e-3", "3e-3"])):
        assert train_HeLLM.main(command(place, "--sweep", "lr=1e-3,2e-3,3e-3", "--sweep_shard", shard)) == 0
        assert sorted(logs(place).glob("*_metrics.jsonl")) == [
            logs(place) / f"tiny-lr{lr}_metrics.jsonl" for lr in done
        ]
        assert (logs(place) / "tiny_sweep-lr.md").read_text().count("(not finished)") == 3 - len(done)
    commands = [parse_command([*GRID, "--sweep_shard", f"{number}/4"]) for number in (1, 2, 3, 4)]
    of_each = [shard_runs(grid_runs(one), one.shard) for one in commands]
    assert [len(own) for own in of_each] == [2, 2, 1, 1]
    assert len({settings.target for own in of_each for settings in own}) == 6


@pytest.mark.parametrize(
    ("value", "name"),
    [(1e-4, "x1e-4"), (0.3, "x0.3"), (16.0, "x16"), (0.00025, "x2.5e-4"), (8, "x8"), ("a/b c", "xa_b_c"), (-1, "x-1")],
)
def test_names_are_short_and_good_for_files(value, name):
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
        (("--sweep",), "expected at least one argument"),
        ((*GRID, "--sweep_shard", "5/4"), "--sweep_shard: 5/4: expected I/N"),
        (("--sweep_shard", "1/4"), "--sweep_shard without --sweep"),
        (("--sweep", "GNNModel=MMHCL,Other"), "tiny-GNNModelOther: "),
        (("--sweep", "train_base=true,false"), "tiny-no-train_base: tiny: no such folder of base weights"),
        (("--sweep", "lora_r=2,4", "lora_targets=w1,w9", "--w_lora"), "targets w9"),
        (("--sweep", "prompt=bos,alpaca"), "tokenizer missing"),
    ],
)
def test_a_mistake_in_one_run_is_one_line_before_the_first(place, flags, message, capsys):
    try:
        status = train_HeLLM.main(command(place, *flags))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2
    assert message in captured.err and captured.err.count("\n") == 1
    assert not (place / "output").exists() and not (place / "log").exists()


def test_only_one_process_runs_a_sweep(place, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train_HeLLM.main(command(place, *GRID)) == 2
    assert "on several machines by --sweep_shard" in capsys.readouterr().err


def test_runs_finished_under_other_settings_are_not_replaced(place, capsys):
    argv = command(place, "--sweep", "lr=1e-3,3e-3")
    assert train_HeLLM.main(argv) == 0
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert train_HeLLM.main([*argv, "--num_epochs", "2"]) == 2
    told = "lr1e-3_metrics.jsonl: finished under other settings or data: "
    assert f"{told}num_epochs was 1, is now 2; " in capsys.readouterr().err
    assert train_HeLLM.main([*argv, "--log_every", "3"]) == 0  # what changes no figure may change
    after = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert before == after


def test_odd_records_of_finished_runs_are_told(place):
    settings = parse_args(command(place))
    path, names = logs(place) / "tiny_metrics.jsonl", required_files("Small", "MMHCL")
    files = input_checksums(place / "data" / "sequential" / "Small" / name for name in names)
    whole = [epoch(0), epoch(1), last() | {"settings": non_default_settings(settings), "files": files}]
    path.parent.mkdir(parents=True)
    refused = 0
    for line in (1, 2):  # the best epoch, the test
        for record in [*damaged(whole[line]), whole[line] | {"epoch": 7}, whole[line] | {"best_epoch": 7}]:
            records = [*whole[:line], record, *whole[line + 1 :]]
            path.write_text("".join(json.dumps(one) + "\n" for one in records))
            try:
                found = finished_record(settings)
            except ValueError as mistake:
                assert str(mistake).startswith(f"{path}: ")
                refused += 1
            else:
                assert not found or found.val["NDCG@10"] + found.test["Recall@20"] >= 0
                assert not found or f"{found.best_epoch:d}"
    assert refused > 100


def test_runs_finished_on_other_data_are_told(place, capsys):
    argv = command(place, "--sweep", "lr=1e-3,3e-3")
    assert train_HeLLM.main(argv) == 0
    torch.save(torch.zeros(N_ITEMS, 3), place / "data" / "sequential" / "Small" / "MMHCL_item_embeddings.pt")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert train_HeLLM.main(argv) == 2
    message = capsys.readouterr().err
    for lr in ("1e-3", "3e-3"):
        what = "finished under other settings or data: CRC-32 of MMHCL_item_embeddings.pt was "
        assert f"lr{lr}_metrics.jsonl: {what}" in message
    assert message.count("\n") == 1 and message.count(" was ") == 2
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for path in logs(place).glob("*_metrics.jsonl"):  # as an earlier version wrote them
        *epochs, last = (json.loads(line) for line in path.read_text().splitlines())
        del last["files"]
        path.write_text("".join(json.dumps(record) + "\n" for record in [*epochs, last]))
    assert train_HeLLM.main(argv) == 0
