"""One of several processes of a training run that a test watches: torchrun … tests/replica_worker.py JOB ARGUMENTS.

JOB `steps`: FOLDER SETTINGS…; write every step's loss, and parameters after steps with uneven shares.
JOB `rank`: FOLDER; rank many users with a fixed score, and few.
JOB `alone`: FOLDER; the first process makes a file, the others find it.
JOB `kill` or `ask`: SETTINGS…; one process dies or gets SIGTERM in the middle of the second epoch, once.
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
from utils.runtime.distributed import run_on_main_process
from utils.runtime.lock import run_lock

UNEVEN = (1, 3, 8)  # samples of a step; one leaves all replicas but the first without any
PLACE = (1, 2)  # epoch and step where a process dies or is asked to stop


def rank_of_process() -> int:
    return int(os.environ.get("RANK", "0"))


def watched_run(argv: list[str]) -> list[float]:
    """Train and test as the program does; the loss of every step."""
    losses, step = [], train_HeLLM.Trainer.step

    def noted(self, rows, rate):
        losses.append(step(self, rows, rate))
        return losses[-1]

    train_HeLLM.Trainer.step = noted
    assert train_HeLLM.main(argv) == 0
    train_HeLLM.Trainer.step = step
    return [loss.item() for loss in losses]


def uneven_steps(argv: list[str]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of plain gradient steps over few samples, and whole parameters after them."""
    run = train_HeLLM.prepare(parse_args(argv))
    run.model.train()
    run.optimizer = torch.optim.SGD(run.trained, fused=True)  # Adam blows rounding up where gradients vanish
    losses = [run.step(np.arange(size) * 7, 0.1).item() for size in UNEVEN]
    dims = shard_dims(run.model)
    return losses, {name: unshard(p.detach(), dims[name]) for name, p in run.model.named_parameters()}


def steps(folder: Path, argv: list[str]) -> None:
    """Both objectives, an epoch of 20 steps each."""
    result = {}
    for objective, batch_size in (("prefix", "15"), ("causal", "3")):
        more = [*argv, "--objective", objective, "--batch_size", batch_size, "--target", f"{argv[-1]}-{objective}"]
        result[objective] = {"losses": watched_run(more), "uneven": uneven_steps(more)}
    torch.save(result, folder / f"{argv[-1]}-{rank_of_process()}.pt")


def rank(folder: Path) -> None:
    """Ranks of the test targets of all users, how many each process scored, and ranks of fewer than a batch each."""
    init_model_parallel()
    data = Interactions(folder / "many.txt", 6)
    weights = torch.randn(data.n_items, data.n_items, generator=torch.Generator().manual_seed(1))
    scored = 0

    def score(items, mask):
        nonlocal scored
        scored += len(items)
        real = torch.ones(items.shape) if mask is None else mask.float()
        return (weights[items] * real[..., None]).sum(1)

    test = data.test()
    few = Samples(test.user[:5], test.begin[:5], test.length[:5])
    result = {"all": evaluate_ranking(score, data, test, 500, distributed=True).seen_kept.tolist()}
    result["scored"] = scored
    result["few"] = evaluate_ranking(score, data, few, 500, distributed=True).seen_removed.tolist()
    (folder / f"ranks{rank_of_process()}of{os.environ.get('WORLD_SIZE', '1')}.json").write_text(json.dumps(result))


def alone(folder: Path) -> None:
    init_model_parallel()
    path = folder / "made.txt"

    def make():
        with run_lock(folder), path.open("a") as file:  # which concerns all processes, elsewhere
            file.write(f"{rank_of_process()}\n")

    run_on_main_process(make)
    assert path.read_text() == "0\n"


def interrupted(number: int, argv: list[str]) -> int:
    """Train; the last process sends itself a signal at PLACE, unless torchrun has started it again."""
    step, last = train_HeLLM.Trainer.step, int(os.environ["WORLD_SIZE"]) - 1

    def struck(self, rows, rate):
        loss = step(self, rows, rate)
        first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if (self.progress.epoch, self.progress.step) == PLACE and rank_of_process() == last and first_time:
            os.kill(os.getpid(), number)
        return loss

    train_HeLLM.Trainer.step = struck
    return train_HeLLM.main(argv)


if __name__ == "__main__":
    job, *arguments = sys.argv[1:]
    if job == "steps":
        steps(Path(arguments[0]), arguments[1:])
    elif job == "rank":
        rank(Path(arguments[0]))
    elif job == "alone":
        alone(Path(arguments[0]))
    else:
        sys.exit(interrupted({"kill": signal.SIGKILL, "ask": signal.SIGTERM}[job], arguments))
