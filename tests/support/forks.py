"""Test processes that start at once: a server process imports every program a single time and is forked for each."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TRAINING = ("train_HeLLM", "preprocess.pretrain_graph", "preprocess.pretrain_sasrec")
PREPARING = ("preprocess.amazon", "preprocess.features", "preprocess.own")
LONGEST_RUN = 300.0  # seconds after which a job hangs

FORKS = multiprocessing.get_context("forkserver")
# torch's optimizers import torch._dynamo, which takes a second, when they are first used.
FORKS.set_forkserver_preload([*TRAINING, *PREPARING, "torch._dynamo", "matplotlib.backends.backend_agg", __name__])


class Outcome(NamedTuple):
    """The end of a process of a job."""

    status: int  # minus the signal that killed it
    out: str
    err: str


def run_distributed(n_processes: int, folder: Path, job: Callable[..., int | None], *arguments) -> list[Outcome]:
    """Run a job in processes that find each other as those of torchrun do; return the outcome of each rank.

    Args:
        n_processes: the world size.
        folder: folder for the output of the processes.
        job: a function of a module; what it returns is the exit status.
        *arguments: arguments of the job, the same for each process.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(n_processes),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here, not in rank 0
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    processes, outputs = [], []
    for rank in range(n_processes):
        environment = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        outputs.append((folder / f"out{rank}.txt", folder / f"err{rank}.txt"))
        processes.append(FORKS.Process(target=_run_rank, args=(environment, *outputs[-1], job, arguments)))
        processes[-1].start()
    for process in processes:
        process.join(LONGEST_RUN)
        process.kill()  # does nothing to one that has ended
        process.join()
    return [
        Outcome(process.exitcode, out.read_text(), err.read_text())
        for process, (out, err) in zip(processes, outputs, strict=True)
    ]


def hold_lock(path: Path, is_prefix: bool, acquired) -> None:
    """Hold the lock of a run until this process is killed; set the event `acquired` when it is held."""
    from utils.runtime.lock import run_lock

    with run_lock(path, is_prefix):
        acquired.set()
        signal.pause()


def redirect_output(out: Path, err: Path) -> None:
    """Send what this process prints to two files."""
    for descriptor, path in ((1, out), (2, err)):
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)


def _run_rank(environment: dict[str, str], out: Path, err: Path, job: Callable, arguments: tuple) -> None:
    os.environ.update(environment)
    redirect_output(out, err)
    sys.exit(job(*arguments))
