"""Devices and processes."""

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist


def pick_device(name: str) -> torch.device:
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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: not available here; try --device cpu") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def is_main() -> bool:
    """Whether this process writes the logs and files."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The first process does the work before the others, which find it done."""
    several = dist.is_initialized() and dist.get_world_size() > 1
    if several and not is_main():
        dist.barrier()
    yield
    if several and is_main():
        dist.barrier()
