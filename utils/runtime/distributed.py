"""Devices and processes."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from llama.parallel import init_model_parallel

_main_only = False  # whether this process does what the others wait for


def resolve_device(name: str) -> torch.device:
    """The device of a setting; "auto" is CUDA where there is one, one GPU a process under torchrun.

    Raises:
        ValueError: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # not every device that torch knows can compute
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: not available here; try --device cpu") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def init_processes(model_parallel: int, model_name: str) -> None:
    """Arrange the processes that torchrun started, or the only one, into replicas of the model.

    Args:
        model_parallel: processes that share one model; 0: as many as there are Meta shards in the folder
            `model_name`, one where there are none or no others were started.

    Raises:
        ValueError: the number of processes is no multiple of it.
    """
    processes, shards = int(os.environ.get("WORLD_SIZE", "1")), len(list(Path(model_name).glob("consolidated.*.pth")))
    size = model_parallel or (max(shards, 1) if processes > 1 else 1)
    if processes % size:
        why = "" if model_parallel else f" ({model_name} has {size} consolidated.*.pth)"
        raise ValueError(
            f"--model_parallel {size}{why}: {processes} processes cannot share models {size} by {size}; "
            f"torchrun --nproc_per_node takes a multiple of {size}, --model_parallel a number that divides {processes}"
        )
    init_model_parallel(size)


def is_distributed() -> bool:
    """Whether this process is one of several that go on together."""
    return not _main_only and dist.is_initialized() and dist.get_world_size() > 1


def is_main() -> bool:
    """Whether this process writes the logs and files."""
    return not is_distributed() or dist.get_rank() == 0


def all_reduce_max(*numbers: float) -> list[float]:
    """The largest that any process gives, number by number; all processes must call and go on together."""
    if not is_distributed():
        return list(numbers)
    of_all = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(of_all, dist.ReduceOp.MAX)
    return of_all.tolist()


def barrier() -> None:
    """Go on once every process has come here."""
    all_reduce_max(0)


def run_on_main_process(work: Callable[..., object], *args) -> None:
    """Let the first process do `work(*args)` as if it were the only one; the others go on once it is done."""
    global _main_only
    if is_main():
        _main_only = True
        try:
            work(*args)
        finally:
            _main_only = False
    barrier()
