"""Several processes of one training run against one process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train_HeLLM
from tests.support import replica_worker
from tests.support.small_data import OWN, command, write_dataset
from utils.runtime.distributed import init_processes
from utils.runtime.lock import run_lock
from utils.runtime.seed import seed_at

ROOT = Path(__file__).parents[2]
LAYOUTS = {"replicas": (2, 1), "shards": (2, 2), "both": (4, 2)}  # processes, of which so many share a model
N_USERS = 22_363  # of Beauty


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess:
    """Run a program in several processes; `arguments` may begin with torchrun's own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.run([*launcher, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def worker(processes: int, *arguments: str, torchrun_flags=()) -> subprocess.CompletedProcess:
    return torchrun(processes, *torchrun_flags, "tests/support/replica_worker.py", *arguments)


def run(place: Path, target: str, *more: str) -> list[str]:
    """Arguments of a run in which nothing is drawn, so that only rounding can differ."""
    sizes = ("--batch_size", "15", "--grad_steps", "2", "--num_epochs", "2", "--warmup_epochs", "0")
    drawn = ("--graph_dropout", "0", "--max_grad_norm", "0.5")
    return command(place, *sizes, *drawn, *more, "--target", target)


def records(place, target):
    path = place / "log" / "Small" / "MMHCL" / f"{target}_metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_figures(place, one, other):
    """Losses and metrics within 1e-4."""
    for a, b in zip(records(place, one), records(place, other), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - OWN:
            assert b[name] == pytest.approx(a[name], abs=1e-4), name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The small data and, on it, an uninterrupted run of one process: `whole`."""
    place = tmp_path_factory.mktemp("replicas")
    write_dataset(place / "data")
    assert train_HeLLM.main(run(place, "whole")) == 0
    return place


@pytest.fixture(scope="module")
def one(place):
    replica_worker.steps(place, run(place, "one", "--num_epochs", "1"))
    return torch.load(place / "one-0.pt", weights_only=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_and_metrics_equal_those_of_one_process(place, one, layout):
    processes, shared_by = LAYOUTS[layout]
    argv = run(place, layout, "--num_epochs", "1", "--model_parallel", str(shared_by))
    done = worker(processes, "steps", str(place), *argv)
    assert done.returncode == 0, done.stderr
    of_each = [torch.load(place / f"{layout}-{rank}.pt", weights_only=True) for rank in range(processes)]
    for objective, expected in one.items():
        assert_same_figures(place, f"one-{objective}", f"{layout}-{objective}")
        for found in (result[objective] for result in of_each):
            assert found["losses"] == of_each[0][objective]["losses"]
            assert found["losses"] == pytest.approx(expected["losses"], abs=1e-4)
            losses, parameters = found["uneven"]
            assert losses == pytest.approx(expected["uneven"][0], abs=1e-5)
            for name, p in parameters.items():
                assert torch.equal(p, of_each[0][objective]["uneven"][1][name]), name
                torch.testing.assert_close(p, expected["uneven"][1][name], rtol=1e-4, atol=1e-6)
            assert len(losses) == len(replica_worker.UNEVEN)
        assert len(expected["losses"]) == 20
    log = (place / "log" / "Small" / "MMHCL" / f"{layout}-prefix_log.txt").read_text()
    assert log.count("best epoch 0, tested on 120 users") == 1  # one log


def test_three_replicas_rank_every_user_once(tmp_path):
    rng = np.random.default_rng(0)
    lines = [" ".join(map(str, [u, *rng.permutation(60)[: rng.integers(3, 9)]])) for u in range(N_USERS)]
    (tmp_path / "many.txt").write_text("\n".join(lines) + "\n")
    replica_worker.rank(tmp_path)
    done = worker(3, "rank", str(tmp_path))
    assert done.returncode == 0, done.stderr
    single = json.loads((tmp_path / "ranks0of1.json").read_text())
    shared = [json.loads((tmp_path / f"ranks{rank}of3.json").read_text()) for rank in range(3)]
    assert len(single["all"]) == N_USERS
    assert sum(result["scored"] for result in shared) == single["scored"] == N_USERS
    assert all(result["scored"] < N_USERS / 2 for result in shared)
    for result in shared:
        assert result["all"] == single["all"]
        assert result["few"] == single["few"]


def test_a_killed_worker_restarts_and_ends_with_the_same_metrics(place):
    more = ("--graph_dropout", "0.3", "--save_every_minutes", "0", "--resume")
    done = torchrun(2, "train_HeLLM.py", *run(place, "spared", *more))
    assert done.returncode == 0, done.stderr
    done = worker(2, "kill", *run(place, "killed", *more), torchrun_flags=("--max-restarts", "2"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"exitcode: -9", done.stderr)
    log = (place / "log" / "Small" / "MMHCL" / "killed_log.txt").read_text()
    assert "no training state in" in log and "resumed at epoch 1, step 2" in log
    assert_same_figures(place, "spared", "killed")
    spared, killed = (
        torch.load(place / "output" / "Small" / "MMHCL" / target / "best_adapter.pt", weights_only=True)["tensors"]
        for target in ("spared", "killed")
    )
    for name, tensor in spared.items():
        assert torch.equal(tensor, killed[name]), name


def test_a_death_ends_the_job_with_its_error(place):
    done = worker(2, "kill", *run(place, "dead"))
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL) received" in done.stderr


@pytest.mark.parametrize(("processes", "shared_by"), [(2, 1), (2, 2)])
def test_a_run_that_was_asked_to_stop_goes_on_in_one_process(place, processes, shared_by):
    target = f"asked{shared_by}"
    done = worker(processes, "ask", *run(place, target, "--model_parallel", str(shared_by)))
    assert done.returncode == 1
    assert done.stdout.count("SIGTERM: state saved in") == 1
    state = torch.load(place / "output" / "Small" / "MMHCL" / target / "training_state.pt", weights_only=True)
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (1, replica_worker.PLACE[1] + 1)
    assert train_HeLLM.main(run(place, target, "--resume")) == 0
    assert_same_figures(place, "whole", target)


def test_a_mistake_is_one_line_of_all_processes(place):
    done = torchrun(3, "train_HeLLM.py", *run(place, "mistaken", "--model_parallel", "2"))
    assert done.returncode == 1
    assert re.findall(r"^error: .*", done.stderr, re.MULTILINE) == [
        "error: --model_parallel 2: 3 processes cannot share models 2 by 2; torchrun --nproc_per_node takes a multiple "
        "of 2, --model_parallel a number that divides 3"
    ]
    assert "exitcode  : 2" in done.stderr
    assert not (place / "output" / "Small" / "MMHCL" / "mistaken").exists()


def test_what_is_drawn_depends_on_the_place_alone():
    drawn = {}
    for place in [(2024, 0, 3, 0), (2024, 0, 3, 1), (2024, 0, 4, 0), (2024, 1, 3, 0), (2025, 0, 3, 0)] * 2:
        seed_at(*place)
        number = torch.rand(1).item()
        assert drawn.setdefault(place, number) == number
    assert len(set(drawn.values())) == 5


def test_the_checkpoint_or_a_flag_says_how_many_share_a_model(tmp_path, monkeypatch, capsys):
    for number in range(2):
        (tmp_path / f"consolidated.0{number}.pth").write_bytes(b"")
    init_processes(0, str(tmp_path))  # one process merges the files
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="--model_parallel 2 .*2 consolidated.* 3 processes cannot share"):
        init_processes(0, str(tmp_path))
    with pytest.raises(ValueError, match="--model_parallel 4: 3 processes cannot share models 4 by 4; torchrun"):
        init_processes(4, str(tmp_path))
    init_processes(1, str(tmp_path))


def test_one_process_works_alone_while_the_others_wait(tmp_path):
    done = worker(2, "alone", str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_no_process_enters_the_folder_of_another_run(place):
    folder = place / "output" / "Small" / "MMHCL" / "held"
    with run_lock(folder):
        done = torchrun(2, "train_HeLLM.py", *run(place, "held"))
    assert done.returncode == 1
    lines = re.findall(r"^error: .*", done.stderr, re.MULTILINE)
    assert lines and all(line.startswith(f"error: {folder}: held by process {os.getpid()} on ") for line in lines)
    assert [path.name for path in folder.iterdir()] == ["held_by.txt"]
