"""Several processes of one training run against one process."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train_HeLLM
from tests.support import replica_worker
from tests.support.forks import run_distributed
from tests.support.small_data import RUN_SPECIFIC_KEYS, command, write_dataset
from utils.runtime.distributed import init_processes
from utils.runtime.lock import run_lock
from utils.runtime.seed import seed_at

ROOT = Path(__file__).parents[2]
LAYOUTS = {"replicas": (2, 1), "shards": (2, 2), "both": (4, 2)}  # processes, and how many of them share a model
ALL_LAYERS = ("--num_epochs", "1", "--n_layers", "-1")
N_USERS = 2_363  # a multiple neither of the batch size nor of the number of processes


def torchrun(n_processes: int, *arguments: str) -> subprocess.CompletedProcess:
    """Run a program in several processes; `arguments` may begin with flags of torchrun."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    return subprocess.run([*launcher, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def run(place: Path, target: str, *more: str) -> list[str]:
    """Return the flags of a run of 5 steps per epoch without dropout, so that only rounding can differ."""
    sizes = ("--n_layers", "1", "--batch_size", "60", "--grad_steps", "2", "--num_epochs", "2", "--warmup_epochs", "0")
    return command(place, *sizes, "--graph_dropout", "0", "--max_grad_norm", "0.5", *more, "--target", target)


def run_folder(place: Path, target: str) -> Path:
    return place / "output" / "Small" / "MMHCL" / target


def read_log(place: Path, target: str) -> str:
    return (place / "log" / "Small" / "MMHCL" / f"{target}_log.txt").read_text()


def records(place: Path, target: str) -> list[dict]:
    path = place / "log" / "Small" / "MMHCL" / f"{target}_metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_metrics(place: Path, one: str, other: str) -> None:
    """Compare the records of two runs: losses and metrics within 1e-4."""
    for a, b in zip(records(place, one), records(place, other), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - RUN_SPECIFIC_KEYS:
            assert b[name] == pytest.approx(a[name], abs=1e-4), name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with the small data and an uninterrupted run of one process: `whole`."""
    place = tmp_path_factory.mktemp("replicas")
    write_dataset(place / "data")
    assert train_HeLLM.main(run(place, "whole")) == 0
    return place


@pytest.fixture(scope="module")
def one(place):
    """Return the results of one process."""
    replica_worker.train_both_objectives(place, run(place, "one", *ALL_LAYERS))
    return torch.load(place / "one-0.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_and_metrics_equal_those_of_one_process(place, one, layout, tmp_path):
    n_processes, model_parallel = LAYOUTS[layout]
    argv = run(place, layout, *ALL_LAYERS, "--model_parallel", str(model_parallel))
    for outcome in run_distributed(n_processes, tmp_path, replica_worker.train_both_objectives, place, argv):
        assert outcome.status == 0, outcome.err
    of_each = [torch.load(place / f"{layout}-{rank}.pt", weights_only=True) for rank in range(n_processes)]
    for objective, expected in one.items():
        assert_same_metrics(place, f"one-{objective}", f"{layout}-{objective}")
        for found in (result[objective] for result in of_each):
            assert found["losses"] == of_each[0][objective]["losses"]
            assert found["losses"] == pytest.approx(expected["losses"], abs=1e-4)
            losses, parameters = found["uneven"]
            assert losses == pytest.approx(expected["uneven"][0], abs=1e-5)
            for name, p in parameters.items():
                assert torch.equal(p, of_each[0][objective]["uneven"][1][name]), name
                torch.testing.assert_close(p, expected["uneven"][1][name], rtol=1e-4, atol=1e-6)
            assert len(losses) == len(replica_worker.UNEVEN_SIZES)
        assert len(expected["losses"]) == 20
    assert read_log(place, f"{layout}-prefix").count("best epoch 1 by val.NDCG@10, tested on 120 users") == 1  # one log


def test_three_replicas_rank_every_user_once(tmp_path):
    rng = np.random.default_rng(0)
    lines = [" ".join(map(str, [u, *rng.permutation(60)[: rng.integers(3, 9)]])) for u in range(N_USERS)]
    (tmp_path / "many.txt").write_text("\n".join(lines) + "\n")
    replica_worker.rank_all_users(tmp_path)
    for outcome in run_distributed(3, tmp_path, replica_worker.rank_all_users, tmp_path):
        assert outcome.status == 0, outcome.err
    single = json.loads((tmp_path / "ranks0of1.json").read_text())
    shared = [json.loads((tmp_path / f"ranks{rank}of3.json").read_text()) for rank in range(3)]
    assert len(single["all"]) == N_USERS
    assert sum(result["n_scored"] for result in shared) == single["n_scored"] == N_USERS
    assert all(result["n_scored"] < N_USERS / 2 for result in shared)
    for result in shared:
        assert result["all"] == single["all"]
        assert result["few"] == single["few"]


@pytest.mark.slow
def test_a_restarted_worker_ends_with_the_same_metrics(place, tmp_path):
    flags = ("--graph_dropout", "0.3", "--save_every_minutes", "0", "--resume")
    for outcome in run_distributed(2, tmp_path, train_HeLLM.main, run(place, "spared", *flags)):
        assert outcome.status == 0, outcome.err
    worker = ("--max-restarts", "2", "tests/support/replica_worker.py")
    done = torchrun(2, *worker, *run(place, "killed", *flags))
    assert done.returncode == 0, done.stderr
    assert re.search(r"exitcode: -9", done.stderr)
    log = read_log(place, "killed")
    assert "no checkpoint in" in log
    assert "resumed at epoch 2, step 2" in log
    assert_same_metrics(place, "spared", "killed")
    spared, killed = (
        torch.load(run_folder(place, target) / "best_adapter.pt", weights_only=True)["tensors"]
        for target in ("spared", "killed")
    )
    for name, tensor in spared.items():
        assert torch.equal(tensor, killed[name]), name


@pytest.mark.slow
def test_a_killed_worker_ends_the_job_with_its_error(place):
    done = torchrun(2, "tests/support/replica_worker.py", *run(place, "dead"))
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL) received" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model_parallel", [1, 2])
def test_one_process_resumes_a_run_that_sigterm_stopped_in_two(place, model_parallel, tmp_path):
    target = f"asked{model_parallel}"
    argv = run(place, target, "--model_parallel", str(model_parallel))
    outcomes = run_distributed(2, tmp_path, replica_worker.train_with_signal, signal.SIGTERM, argv)
    assert [outcome.status for outcome in outcomes] == [128 + signal.SIGTERM] * 2, outcomes
    assert "".join(outcome.out for outcome in outcomes).count("SIGTERM: checkpoint saved in") == 1
    progress = torch.load(run_folder(place, target) / "training_state.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["step"]) == (1, replica_worker.SIGNAL_POSITION[1] + 1)
    assert train_HeLLM.main(run(place, target, "--resume")) == 0
    assert_same_metrics(place, "whole", target)


@pytest.mark.slow
def test_an_error_of_all_processes_is_printed_once(place):
    done = torchrun(2, "train_HeLLM.py", *run(place, "mistaken", "--model_parallel", "4"))
    assert done.returncode == 1
    assert re.findall(r"^error: .*", done.stderr, re.MULTILINE) == [
        "error: --model_parallel 4: 2 processes cannot share models 4 by 4; torchrun --nproc_per_node takes a multiple "
        "of 4, --model_parallel a number that divides 2"
    ]
    assert "exitcode  : 2" in done.stderr
    assert not run_folder(place, "mistaken").exists()


def test_the_seed_of_a_step_depends_on_its_coordinates_alone():
    samples = {}
    for coordinates in [(2024, 0, 3, 0), (2024, 0, 3, 1), (2024, 0, 4, 0), (2024, 1, 3, 0), (2025, 0, 3, 0)] * 2:
        seed_at(*coordinates)
        number = torch.rand(1).item()
        assert samples.setdefault(coordinates, number) == number
    assert len(set(samples.values())) == 5


def test_the_checkpoint_or_a_flag_sets_how_many_processes_share_a_model(tmp_path, monkeypatch):
    for number in range(2):
        (tmp_path / f"consolidated.0{number}.pth").write_bytes(b"")
    init_processes(0, str(tmp_path))  # one process merges the files
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="--model_parallel 2 .*2 consolidated.* 3 processes cannot share"):
        init_processes(0, str(tmp_path))
    with pytest.raises(ValueError, match="--model_parallel 4: 3 processes cannot share models 4 by 4; torchrun"):
        init_processes(4, str(tmp_path))
    init_processes(1, str(tmp_path))


def test_rank_0_works_alone_while_the_others_wait(tmp_path):
    for outcome in run_distributed(2, tmp_path, replica_worker.write_on_main_process, tmp_path):
        assert outcome.status == 0, outcome.err


def test_no_process_enters_the_folder_of_another_run(place, tmp_path):
    folder = run_folder(place, "held")
    with run_lock(folder):
        outcomes = run_distributed(2, tmp_path, train_HeLLM.main, run(place, "held"))
    assert [outcome.status for outcome in outcomes] == [2, 2]
    for outcome in outcomes:
        assert outcome.err.startswith(f"error: {folder}: in use by process {os.getpid()} on ")
        assert outcome.err.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["held_by.txt"]
