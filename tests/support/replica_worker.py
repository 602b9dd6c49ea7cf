"""The work of each process of a distributed job, in the tests of replicas.

The tests call these functions in forked processes; torchrun starts a run in which one process is killed:

    torchrun ... tests/support/replica_worker.py FLAGS OF train_HeLLM.py
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

import train_HeLLM
from config_HeLLM import parse_args
from llama.parallel import init_model_parallel, shard_dims, unshard
from utils.data.interactions import Interactions, Samples
from utils.evaluation.ranking import evaluate_ranking
from utils.runtime.lock import run_lock
from utils.runtime.processes import run_on_main_process
from utils.training.loop import TrainingLoop

UNEVEN_SIZES = (1, 3, 8)  # samples of a step; with one sample, every replica but the first has none
EVAL_BATCH_SIZE = 50
SIGNAL_POSITION = (1, 2)  # epoch and step after which a process is killed or asked to stop


def process_rank() -> int:
    return int(os.environ.get("RANK", "0"))


def run_and_record_losses(argv: list[str]) -> list[float]:
    """Train and test as the program does; return the loss of every step."""
    losses = []
    step = TrainingLoop.step

    def recording_step(self, batch, lr):
        losses.append(step(self, batch, lr))
        return losses[-1]

    TrainingLoop.step = recording_step
    assert train_HeLLM.main(argv) == 0
    TrainingLoop.step = step
    return [loss.item() for loss in losses]


def take_uneven_steps(argv: list[str]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Take gradient steps over few samples; return their losses and the unsharded parameters after them."""
    run = train_HeLLM.setup_run(parse_args(argv))
    run.model.train()
    trained = [p for p in run.model.parameters() if p.requires_grad]
    run.optimizer = torch.optim.SGD(trained, fused=True)  # Adam amplifies rounding where gradients vanish
    loop = train_HeLLM.training_loop(run)
    losses = [loop.step(np.arange(size) * 7, 0.1).item() for size in UNEVEN_SIZES]
    dims = shard_dims(run.model)
    return losses, {name: unshard(p.detach(), dims[name]) for name, p in run.model.named_parameters()}


def train_both_objectives(folder: Path, argv: list[str]) -> None:
    """Train one epoch of 20 steps per objective, and take uneven steps; write the results of this process."""
    target = argv[-1]
    result = {}
    for objective, batch_size in (("prefix", "15"), ("causal", "3")):
        flags = [*argv, "--objective", objective, "--batch_size", batch_size, "--target", f"{target}-{objective}"]
        result[objective] = {"losses": run_and_record_losses(flags), "uneven": take_uneven_steps(flags)}
    torch.save(result, folder / f"{target}-{process_rank()}.pt")


def rank_all_users(folder: Path) -> None:
    """Rank the test targets of all users, and of five, which is less than a batch per process; write the ranks."""
    init_model_parallel()
    data = Interactions(folder / "many.txt", 6)
    weights = torch.randn(data.n_items, data.n_items, generator=torch.Generator().manual_seed(1))
    n_scored = 0

    def score(items, mask):
        nonlocal n_scored
        n_scored += len(items)
        real = torch.ones(items.shape) if mask is None else mask.float()
        return (weights[items] * real[..., None]).sum(1)

    test = data.test()
    few = Samples(test.user[:5], test.start[:5], test.length[:5])
    size = EVAL_BATCH_SIZE
    result = {"all": evaluate_ranking(score, data, test, size, distributed=True).seen_kept.tolist()}
    result["n_scored"] = n_scored
    result["few"] = evaluate_ranking(score, data, few, size, distributed=True).seen_removed.tolist()
    name = f"ranks{process_rank()}of{os.environ.get('WORLD_SIZE', '1')}.json"
    (folder / name).write_text(json.dumps(result))


def write_on_main_process(folder: Path) -> None:
    """Let rank 0 write a file that every process then reads."""
    init_model_parallel()
    path = folder / "made.txt"

    def write():
        with run_lock(folder), path.open("a") as file:  # outside, the lock is a collective call of all processes
            file.write(f"{process_rank()}\n")

    run_on_main_process(write)
    assert path.read_text() == "0\n"


def train_with_signal(number: int, argv: list[str]) -> int:
    """Train; the last process sends itself a signal at SIGNAL_POSITION, unless torchrun has restarted it."""
    step = TrainingLoop.step
    last = int(os.environ["WORLD_SIZE"]) - 1

    def interrupted_step(self, batch, lr):
        position = (self.progress.epoch, self.progress.step)
        loss = step(self, batch, lr)
        is_first_attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if position == SIGNAL_POSITION and process_rank() == last and is_first_attempt:
            os.kill(os.getpid(), number)
        return loss

    TrainingLoop.step = interrupted_step
    return train_HeLLM.main(argv)


if __name__ == "__main__":
    sys.exit(train_with_signal(signal.SIGKILL, sys.argv[1:]))
