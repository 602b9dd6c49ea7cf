"""Devices, and the arrangement of processes into replicas of the model."""

import os
from pathlib import Path

import torch

from llama.parallel import init_model_parallel


def resolve_device(name: str) -> torch.device:
    """Return the device of a setting; "auto" is CUDA if there is a GPU, under torchrun one GPU per process.

    Raises:
        ValueError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # torch knows devices that cannot compute, such as meta
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: not available here; try --device cpu") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def init_processes(model_parallel: int, model_name: str) -> None:
    """Arrange the processes of torchrun, or the only process, into replicas of the model.

    Args:
        model_parallel: processes that share one model; 0: one per consolidated.*.pth in the folder `model_name`, and
            one where there are none or there is only one process.
        model_name: base weights.

    Raises:
        ValueError: the number of processes is no multiple of it.
    """
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    n_shards = len(list(Path(model_name).glob("consolidated.*.pth")))
    size = model_parallel or (max(n_shards, 1) if n_processes > 1 else 1)
    if n_processes % size:
        reason = "" if model_parallel else f" ({model_name} has {size} consolidated.*.pth)"
        raise ValueError(
            f"--model_parallel {size}{reason}: {n_processes} processes cannot share models {size} by {size}; torchrun "
            f"--nproc_per_node takes a multiple of {size}, --model_parallel a number that divides {n_processes}"
        )
    init_model_parallel(size)
