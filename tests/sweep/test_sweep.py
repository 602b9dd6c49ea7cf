"""Sweeps: which runs they train, that each equals the same run alone, and how they resume."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

import train_HeLLM
from config_HeLLM import non_default_settings, parse_args
from tests.support.forks import FORKS
from tests.support.records import damaged, epoch, last
from tests.support.small_data import N_ITEMS, RUN_SPECIFIC_KEYS, short_command
from tests.support.small_model import SHAPE, small_hellm, write_meta
from utils.data.input_files import input_checksums
from utils.data.layout import required_files
from utils.runtime.lock import run_lock
from utils.sweep.results import finished_record
from utils.training.build import build_model, load_data


def command(place, *more):
    """Return the arguments of a short run of one block."""
    return short_command(place, "--n_layers", "1", *more)


def log_folder(place):
    return place / "log" / "Small" / "MMHCL"


def read_records(place, target):
    path = log_folder(place) / f"{target}_metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def is_finished(place, target):
    records = read_records(place, target)
    return bool(records) and "test" in records[-1]


def all_files(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def assert_same_run(place, one, other):
    """Check that two runs have equal records, but for times, and equal adapters."""
    for a, b in zip(read_records(place, one), read_records(place, other), strict=True):
        assert {key: a[key] for key in a.keys() - RUN_SPECIFIC_KEYS} == {
            key: b[key] for key in b.keys() - RUN_SPECIFIC_KEYS
        }
    paths = [place / "output" / "Small" / "MMHCL" / target / "best_adapter.pt" for target in (one, other)]
    a, b = (torch.load(path, weights_only=True)["tensors"] for path in paths)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- resuming

GRID = ("--sweep", "lr=1e-3,3e-3", "adapter_len=2,3")
TARGETS = [f"tiny-lr{lr}-adapter_len{n}" for lr in ("1e-3", "3e-3") for n in (2, 3)]


def run_silently(argv):
    """Run the program in this process, without output, and exit with its status."""
    with Path(os.devnull).open("w") as null_device:
        os.dup2(null_device.fileno(), 1)
    sys.exit(train_HeLLM.main(argv))


def signal_within(place, target, number):
    """Start the sweep and send it a signal in the middle of an epoch of one run; return its exit status."""
    process = FORKS.Process(target=run_silently, args=(command(place, *GRID, "--save_every_minutes", "0"),))
    process.start()
    state = place / "output" / "Small" / "MMHCL" / target / "training_state.pt"
    while process.exitcode is None:
        if state.is_file() and torch.load(state, weights_only=True)["progress"]["step"] > 1:
            os.kill(process.pid, number)
            break
        time.sleep(0.01)
    process.join()
    return process.exitcode


def finished_files(place):
    """Return the content of all files of each finished run."""
    targets = [target for target in TARGETS if is_finished(place, target)]
    return {target: [path.read_bytes() for path in sorted(place.rglob(f"*{target}[_/]*"))] for target in targets}


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_interrupted_finishes_each_run_once_and_as_if_alone(place, capsys):
    assert signal_within(place, TARGETS[1], signal.SIGKILL) == -signal.SIGKILL
    after_kill = finished_files(place)
    assert list(after_kill) == TARGETS[:1]
    assert not read_records(place, TARGETS[1])

    assert signal_within(place, TARGETS[2], signal.SIGTERM) == 128 + signal.SIGTERM
    after_signal = finished_files(place)
    assert list(after_signal) == TARGETS[:2]
    assert after_signal[TARGETS[0]] == after_kill[TARGETS[0]]

    assert train_HeLLM.main(command(place, *GRID)) == 0
    finally_ = finished_files(place)
    assert list(finally_) == TARGETS
    assert {target: finally_[target] for target in after_signal} == after_signal
    assert len(list(log_folder(place).glob("*_metrics.jsonl"))) == 4
    assert capsys.readouterr().out.count("finished before") == 2
    for number, target in enumerate(TARGETS):
        *epochs, test = read_records(place, target)
        assert [record["epoch"] for record in epochs] == [0]
        assert test["settings"]["adapter_len"] == number % 2 + 2

    assert train_HeLLM.main(command(place, "--target", "alone", "--lr", "1e-3", "--adapter_len", "3")) == 0
    assert_same_run(place, "alone", TARGETS[1])


def test_runs_finished_under_other_settings_are_refused_and_kept(place, capsys):
    argv = command(place, "--sweep", "lr=1e-3")
    assert train_HeLLM.main(argv) == 0
    before = all_files(place)
    assert train_HeLLM.main([*argv, "--num_epochs", "2"]) == 2
    found = "lr1e-3_metrics.jsonl: finished under other settings or data: "
    assert f"{found}num_epochs was 1, is now 2; " in capsys.readouterr().err
    assert train_HeLLM.main([*argv, "--log_every", "3"]) == 0  # changes no result
    assert all_files(place) == before


def test_runs_finished_on_other_data_are_refused_and_kept(place, capsys):
    argv = command(place, "--sweep", "lr=1e-3,3e-3")
    assert train_HeLLM.main(argv) == 0
    torch.save(torch.zeros(N_ITEMS, 3), place / "data" / "sequential" / "Small" / "MMHCL_item_embeddings.pt")
    before = all_files(place)
    assert train_HeLLM.main(argv) == 2
    error = capsys.readouterr().err
    for lr in ("1e-3", "3e-3"):
        found = "finished under other settings or data: CRC-32 of MMHCL_item_embeddings.pt was "
        assert f"lr{lr}_metrics.jsonl: {found}" in error
    assert error.count("\n") == 1
    assert error.count(" was ") == 2
    assert all_files(place) == before
    for path in log_folder(place).glob("*_metrics.jsonl"):  # earlier versions recorded no files
        *epochs, final = (json.loads(line) for line in path.read_text().splitlines())
        del final["files"]
        path.write_text("".join(json.dumps(record) + "\n" for record in [*epochs, final]))
    assert train_HeLLM.main(argv) == 0


def refuses(settings, path) -> bool:
    """Return whether a metrics file is refused, by its name; else check that what was read can be used."""
    try:
        found = finished_record(settings)
    except ValueError as error:
        refusal = str(error)
    else:
        assert not found or found.val["NDCG@10"] + found.test["Recall@20"] >= 0
        assert not found or f"{found.best_epoch:d}"
        return False
    assert refusal.startswith(f"{path}: ")
    return True


def test_damaged_records_of_finished_runs_are_refused_by_name(place):
    settings = parse_args(command(place))
    path = log_folder(place) / "tiny_metrics.jsonl"
    names = required_files("Small", "MMHCL")
    files = input_checksums(place / "data" / "sequential" / "Small" / name for name in names)
    valid = [epoch(0), epoch(1), last() | {"settings": non_default_settings(settings), "files": files}]
    path.parent.mkdir(parents=True)
    n_refused = 0
    for line in (1, 2):  # the best epoch, the test
        for record in [*damaged(valid[line]), valid[line] | {"epoch": 7}, valid[line] | {"best_epoch": 7}]:
            records = [*valid[:line], record, *valid[line + 1 :]]
            path.write_text("".join(json.dumps(one) + "\n" for one in records))
            n_refused += refuses(settings, path)
    assert n_refused > 100


# ---------------------------------------------------------------- a frozen base


@pytest.fixture
def frozen_base(place):
    """Write base weights and return the flags of a run that reads them and does not train them."""
    state = {name.removeprefix("llama."): p.detach() for name, p in small_hellm(w_lora=False).named_parameters()}
    state = {name: p for name, p in state.items() if name.split(".")[0] in ("tok_embeddings", "layers", "norm")}
    write_meta(place / "weights", state, SHAPE)
    return "--model_name", str(place / "weights"), "--no-train_base", "--w_lora"


@pytest.mark.slow
def test_runs_that_share_a_frozen_base_equal_runs_alone_and_are_ranked(place, frozen_base):
    flags = short_command(place, *frozen_base, "--target", "sweep", "--dropout", "0.1", "--num_epochs", "2")
    assert train_HeLLM.main([*flags, "--sweep", "lora_r=2,4,8"]) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # between runs nothing reads a flag
    assert train_HeLLM.main([*flags, "--target", "alone", "--lora_r", "8"]) == 0
    assert_same_run(place, "alone", "sweep-lora_r8")
    lines = (log_folder(place) / "sweep_sweep-lora_r.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "| sweep-" in line]
    assert len(rows) == 3
    assert [float(row[2]) for row in rows] == sorted((float(row[2]) for row in rows), reverse=True)
    for row in rows:
        *epochs, final = read_records(place, row[0])
        assert row[1] == str(final["best_epoch"] + 1)
        assert row[2] == f"{max(record['val']['NDCG@10'] for record in epochs):.4f}"
        assert row[3] == f"{final['test']['Recall@10']:.4f}"


def test_a_frozen_base_is_read_once(place, frozen_base):
    base_cache = {}
    models = []
    for more in ((), ("--lora_r", "3"), ("--train_base",), ("--dtype", "bf16")):
        settings = parse_args(short_command(place, *frozen_base, *more))
        models.append(build_model(settings, load_data(settings)[1], torch.device("cpu"), base_cache))
    first, second, trained, half = (model.llama.layers[0].attention.wq.weight for model in models)
    assert first.data_ptr() == second.data_ptr()
    assert trained.data_ptr() != first.data_ptr()
    assert torch.equal(trained, first)
    assert half.dtype == torch.bfloat16
    assert not second.requires_grad
    assert trained.requires_grad


# ---------------------------------------------------------------- failures, shards and other processes


@pytest.mark.slow
def test_failed_runs_are_listed_and_the_others_run(place, capsys):
    folder = place / "output" / "Small" / "MMHCL" / "tiny-lr3e-3"
    folder.mkdir(parents=True)
    (folder / "training_state.pt").write_text("no state")
    assert train_HeLLM.main(command(place, "--sweep", "lr=1e30,3e-3,1e-3")) == 1
    assert is_finished(place, "tiny-lr1e-3")
    text = (log_folder(place) / "tiny_sweep-lr.md").read_text()
    assert text.index("| tiny-lr1e-3 |") < text.index("| tiny-lr1e+30 (failed) |")
    assert "tiny-lr1e+30 failed: " in text
    assert "; try a lower --lr" in text
    assert "training_state.pt: cut short or damaged" in text
    assert "Traceback" not in capsys.readouterr().err
    assert len(list(log_folder(place).glob("*_failed.txt"))) == 2
    (folder / "training_state.pt").unlink()
    assert train_HeLLM.main(command(place, "--target", "tiny-lr3e-3", "--lr", "3e-3", "--resume")) == 0
    assert [path.name for path in log_folder(place).glob("*_failed.txt")] == ["tiny-lr1e+30_failed.txt"]


def test_an_error_of_the_program_is_listed_with_its_traceback_and_the_others_run(place, capsys, monkeypatch):
    train_and_test = train_HeLLM.train_and_test

    def fail_once(run, *args):
        if run.settings.lr == 1e-3:
            raise ValueError("a bug")
        train_and_test(run, *args)

    monkeypatch.setattr(train_HeLLM, "train_and_test", fail_once)
    assert train_HeLLM.main(command(place, "--sweep", "lr=1e-3,3e-3")) == 1
    assert is_finished(place, "tiny-lr3e-3")
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    failure = "tiny-lr1e-3 failed: RuntimeError: ValueError in training: a bug\n"
    assert failure in captured.out
    assert f"* {failure}" in (log_folder(place) / "tiny_sweep-lr.md").read_text()


@pytest.mark.slow
def test_the_table_of_the_last_shard_lists_failures_of_earlier_ones(place):
    argv = command(place, "--sweep", "lr=1e30,3e-3")
    assert train_HeLLM.main([*argv, "--sweep_shard", "1/2"]) == 1
    path = log_folder(place) / "tiny_sweep-lr.md"
    first = path.read_text().splitlines()
    assert train_HeLLM.main([*argv, "--sweep_shard", "2/2"]) == 0  # its own run has not failed
    text = path.read_text()
    assert text.index("| tiny-lr3e-3 |") < text.index("| tiny-lr1e+30 (failed) |")
    assert "(not finished)" not in text
    assert first[-1].startswith("* tiny-lr1e+30 failed: ")
    assert text.splitlines()[-1] == first[-1]
    assert train_HeLLM.main(command(place, "--sweep", "adapter_len=2")) == 0
    assert path.read_text() == text
    assert (log_folder(place) / "tiny_sweep-adapter_len.md").is_file()


def test_a_run_in_use_by_another_process_is_skipped(place, capsys):
    with run_lock(log_folder(place) / "tiny-lr1e-3", is_prefix=True):
        assert train_HeLLM.main(command(place, "--sweep", "lr=1e-3,3e-3")) == 0
    text = (log_folder(place) / "tiny_sweep-lr.md").read_text()
    assert "| tiny-lr3e-3 |" in text
    assert "| tiny-lr1e-3 (running elsewhere) |" in text
    assert "failed" not in text
    captured = capsys.readouterr()
    assert "tiny-lr1e-3 running elsewhere: " in captured.out
    assert f"by process {os.getpid()}" in captured.out
    assert "Traceback" not in captured.err
    assert not read_records(place, "tiny-lr1e-3")


@pytest.mark.slow
def test_shards_train_their_runs_and_list_all(place):
    for shard, done in (("2/2", ["2e-3"]), ("1/2", ["1e-3", "2e-3", "3e-3"])):
        assert train_HeLLM.main(command(place, "--sweep", "lr=1e-3,2e-3,3e-3", "--sweep_shard", shard)) == 0
        expected = [log_folder(place) / f"tiny-lr{lr}_metrics.jsonl" for lr in done]
        assert sorted(log_folder(place).glob("*_metrics.jsonl")) == expected
        assert (log_folder(place) / "tiny_sweep-lr.md").read_text().count("(not finished)") == 3 - len(done)


def test_a_sweep_under_torchrun_is_refused(place, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train_HeLLM.main(command(place, *GRID)) == 2
    assert "on several machines by --sweep_shard" in capsys.readouterr().err
