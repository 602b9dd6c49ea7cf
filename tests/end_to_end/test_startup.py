"""The start of a run: over files of another run, with settings it cannot train with, in folders it cannot write to."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import train_HeLLM
from config_HeLLM import parse_args
from tests.support.small_data import N_ITEMS, short_command
from tests.training.test_states import PRETRAINING, contents, pretrain_argv
from tests.training.test_training import assert_same_run
from utils.logs.run_log import FILES
from utils.runtime.signals import SignalFlag, restore_default_signals

ROOT = Path(__file__).parents[2]
MAINS = {"fine-tuning": train_HeLLM.main} | {name: program.main for name, program in PRETRAINING.items()}
SMALL = ("--n_layers", "1")


@pytest.fixture
def place(place):
    features = np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32)
    np.save(place / "data" / "sequential" / "Small" / "image_feat.npy", features)
    return place


def argv_of(which, place):
    if which == "fine-tuning":
        return short_command(place, *SMALL)
    return pretrain_argv(place)


@pytest.mark.slow
def test_a_run_killed_before_its_first_state_ignores_the_files_of_an_earlier_run(place):
    """The earlier run had other settings and the same name."""
    assert train_HeLLM.main(short_command(place, *SMALL, "--target", "twice")) == 0
    argv = short_command(place, *SMALL, "--lr", "5e-3")
    run = train_HeLLM.setup_run(parse_args([*argv, "--target", "twice"]))
    with run.checkpoints.lock():
        run.checkpoints.reset()  # killed here
    assert train_HeLLM.main([*argv, "--target", "twice", "--resume"]) == 0
    assert train_HeLLM.main([*argv, "--target", "alone"]) == 0
    assert_same_run(place, "alone", "twice")
    assert (run.checkpoints.folder / "training_state_before.pt").is_file()


def test_divergence_before_the_first_state_leaves_nothing_to_resume(place, capsys):
    assert train_HeLLM.main(short_command(place, *SMALL)) == 0
    diverging = short_command(place, *SMALL, "--overwrite", "--lr", "1e38", "--warmup_epochs", "0", "--log_every", "1")
    assert train_HeLLM.main(diverging) == 1
    message = capsys.readouterr().out.splitlines()[-1]
    assert "not finite before, and there is no older checkpoint; try a lower --lr" in message
    assert not list((place / "output").rglob("*.pt"))


@pytest.mark.parametrize("which", MAINS)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seed", "-1"), "--seed -1: from 0 to 9223372036854775807"),
        (("--seed", str(2**63)), f"--seed {2**63}: from 0 to 9223372036854775807"),
        (("--device", "meta"), "--device meta: not available here"),
        (("--batch_size", str(10**20)), f"--batch_size {10**20}: at least 1, at most 2147483647"),
        (("--patience", str(10**20)), f"--patience {10**20}: 0 or above, at most 2147483647"),
        (("--target", "a\nb"), "--target 'a\\nb': a name without folders, of at most 150 bytes"),
        (("--target", "b\udcff"), "--target 'b\\udcff': a name without folders"),
        (("--target", "ü" * 80), ": a name without folders, of at most 150 bytes"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_written(place, which, flags, message, capsys):
    before = contents(place)
    try:
        status = MAINS[which]([*argv_of(which, place), *flags])
    except SystemExit as end:
        status = end.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert contents(place) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--n_layers", "-7"), "--n_layers -7: from -1 to 1024"),
        (("--n_layers", "3000000000"), "--n_layers 3000000000: from -1 to 1024"),
        (("--max_len", str(10**20)), f"--max_len {10**20}: from 3 (two targets and a history) to 2147483647"),
    ],
)
def test_impossible_model_sizes_are_refused(place, flags, message, capsys):
    with pytest.raises(SystemExit):
        train_HeLLM.main([*short_command(place), *flags])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("which", MAINS)
def test_a_model_that_does_not_fit_into_memory_is_refused(place, which, capsys):
    sizes = {"fine-tuning": "--adapter_len", "MMHCL": "--embed_dim", "SASRec": "--width"}
    before = contents(place)
    assert MAINS[which]([*argv_of(which, place), sizes[which], "2000000000"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no memory for a model of these sizes")
    assert error.count("\n") == 1
    assert contents(place) == before


@pytest.mark.parametrize("name", ["training_state.pt", "training_state_before.pt", "best_adapter.pt"])
@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_folder_in_place_of_a_state_is_refused(place, name, more, capsys):
    folder = place / "output" / "Small" / "MMHCL" / "tiny" / name
    folder.mkdir(parents=True)
    assert train_HeLLM.main([*short_command(place), *more]) == 2
    assert capsys.readouterr().err == f"error: {folder}: a folder where a file belongs; remove it\n"


@pytest.mark.parametrize("name", [f"tiny_{name}" for name in FILES])
def test_a_folder_in_place_of_a_log_is_refused(place, name, capsys):
    folder = place / "log" / "Small" / "MMHCL" / name
    folder.mkdir(parents=True)
    assert train_HeLLM.main(short_command(place)) == 2
    assert capsys.readouterr().err == f"error: {folder}: a folder where a file belongs; remove it\n"


def test_an_unreadable_lock_file_of_an_earlier_run_is_ignored(place):
    path = place / "log" / "Small" / "MMHCL" / "tiny_held_by.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe")
    assert train_HeLLM.main(short_command(place, *SMALL)) == 0
    assert path.read_bytes() == b""


@pytest.mark.parametrize(("handler", "expected"), [(signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, 0)])
def test_a_closed_terminal_stops_a_run_except_under_nohup(handler, expected, request):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        request.addfinalizer(partial(signal.signal, number, signal.getsignal(number)))
    signal.signal(signal.SIGHUP, handler)
    signals = SignalFlag()
    signals.install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert signals.number == expected
    restore_default_signals()
    assert signal.getsignal(signal.SIGHUP) == handler


ON_A_FULL_DISK = """
import resource, signal, sys
import train_HeLLM
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(train_HeLLM.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_start(place):
    argv = [sys.executable, "-B", "-c", ON_A_FULL_DISK, *short_command(place, *SMALL)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {place}/log/Small/MMHCL/tiny_held_by.txt: no room on the disk at /")
    assert done.stderr.count("\n") == 1
    assert train_HeLLM.main(short_command(place, *SMALL)) == 0
