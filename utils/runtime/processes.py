"""The processes (ranks) of a distributed job; torch is imported where there are several."""

import os
from collections.abc import Callable

# True on rank 0 inside `run_on_main_process`, while the other ranks wait: it must not join them in a collective call
_main_only = False


def is_distributed() -> bool:
    """Return whether this process is one of several that make the same calls."""
    if _main_only or os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    import torch.distributed as dist  # slow to import

    return dist.is_initialized() and dist.get_world_size() > 1


def is_main() -> bool:
    """Return whether this process writes the logs and files."""
    if not is_distributed():
        return True
    import torch.distributed as dist  # slow to import

    return dist.get_rank() == 0


def all_reduce_max(*numbers: float) -> list[float]:
    """Return the largest value of each number over all ranks; a collective call."""
    if not is_distributed():
        return list(numbers)
    import torch  # slow to import
    import torch.distributed as dist

    reduced = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(reduced, dist.ReduceOp.MAX)
    return reduced.tolist()


def barrier() -> None:
    """Wait until every rank is here."""
    all_reduce_max(0)


def run_on_main_process(work: Callable[..., object], *args) -> None:
    """Run `work(*args)` on rank 0 only; the other ranks wait."""
    global _main_only
    if is_main():
        _main_only = True
        try:
            work(*args)
        finally:
            _main_only = False
    barrier()
