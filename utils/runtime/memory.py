"""Memory in bytes: tracked in a simulation, measured of a process or device, and out-of-memory errors."""

import contextlib
import re
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROC_STATUS = Path("/proc/self/status")  # on Linux
# How allocators that raise RuntimeError say that they have no memory
OOM_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc", "ALLOC_FAILED")


class LiveBytes(TorchDispatchMode):
    """Track the memory of every tensor made in its context, from allocation to release.

    `live` is the number of bytes now, `peak` the largest number since it was last set. Fake tensors count like real
    ones. What an operation allocates and releases within itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}  # storages by address

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not leaf.is_meta:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._alive:  # otherwise a view, or the result of an in-place operation
            size = storage.nbytes()
            self._alive[address] = weakref.ref(storage, partial(self._remove, address, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _remove(self, address: int, size: int, _gone: weakref.ref) -> None:
        del self._alive[address]
        self.live -= size


def rss_bytes(field: str = "VmRSS") -> int:
    """Return this process's resident memory in bytes; with "VmHWM" its peak since the start or the last reset."""
    return int(PROC_STATUS.read_text().split(f"{field}:")[1].split()[0]) * 1024


def reset_peak_rss() -> None:
    """Reset the peak of the resident memory to what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Return the peak bytes allocated on a GPU, or resident in this process; None where the system does not count."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return rss_bytes("VmHWM") if PROC_STATUS.is_file() else None


def reset_peak_memory() -> None:
    """Reset what `peak_memory` returns, where the system allows it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        reset_peak_rss()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device or the CPU has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in OOM_MESSAGES)


def device_memory(device: torch.device) -> int:
    """Return the bytes this process can use: of a GPU those free or reserved by it, of the CPU all memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    kibibytes = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]
    return int(kibibytes) * 1024


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn an out-of-memory error of the block, which builds a model, into one for the user.

    Raises:
        ValueError: memory ran out; with the first line of the allocator's message.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"no memory for a model of these sizes ({reason}); use smaller ones, or more memory"
        ) from error
