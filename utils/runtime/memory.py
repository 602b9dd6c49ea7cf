"""Bytes: as the user writes them, alive in a simulation, resident in a process, refused by an allocator."""

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

GIB = 2**30
UNITS = {"": 1, "B": 1} | {f"{p}iB": 2 ** (10 * n) for n, p in enumerate("KMGT", 1)}
UNITS |= {f"{prefix}B": 1000**n for n, prefix in enumerate("KMGT", 1)}
PROC_STATUS = Path("/proc/self/status")  # of Linux
OOM_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc", "ALLOC_FAILED")


def parse_bytes(text: str) -> int:
    """Bytes of "24GiB", "20GB", "1.5 GiB" or a plain number.

    Raises:
        ValueError: anything else, or nothing above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([A-Za-z]*)", text.strip())
    if not found or found[2] not in UNITS or not int(float(found[1]) * UNITS[found[2]]):
        raise ValueError(f"{text!r} is no amount of memory; write bytes, or a number with {', '.join([*UNITS][2:])}")
    return int(float(found[1]) * UNITS[found[2]])


class LiveBytes(TorchDispatchMode):
    """Follows the memory of every tensor that is made under it, from allocation to release.

    `live` are the bytes that are alive, `peak` the most there have been since it was last set. Works on tensors
    without content as on real ones; what an operation allocates and releases within itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}  # by address of the storage

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not leaf.is_meta:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._alive:  # else a view, or changed in place
            size = storage.nbytes()
            self._alive[address] = weakref.ref(storage, partial(self._remove, address, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _remove(self, address: int, size: int, _gone: weakref.ref) -> None:
        del self._alive[address]
        self.live -= size


def rss_bytes(what: str = "VmRSS") -> int:
    """This process's resident memory in bytes; "VmHWM": the most there was since the start or the last reset."""
    return int(PROC_STATUS.read_text().split(f"{what}:")[1].split()[0]) * 1024


def reset_peak_rss() -> None:
    """Start the count of the most resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes: the most that was allocated on a GPU, or that was resident in this process; None where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return rss_bytes("VmHWM") if PROC_STATUS.is_file() else None


def reset_peak_memory() -> None:
    """Start the count of `peak_memory` anew, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        reset_peak_rss()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of a device or of the CPU, refused memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OOM_MESSAGES)


def device_memory(device: torch.device) -> int:
    """Bytes that this process can have on a device: free ones and those it holds already; of the CPU, all."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    kibibytes = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]
    return int(kibibytes) * 1024


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Where memory has no room for the model that the block builds, say so.

    Raises:
        ValueError: with what the allocator said.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"no memory for a model of these sizes ({said}); take smaller ones, or more memory") from error
