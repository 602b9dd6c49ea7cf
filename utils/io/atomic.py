"""Files that no reader sees half written."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np

from utils.io.disk_full import explain_disk_full
from utils.io.kept import refuse_kept


@contextlib.contextmanager
def atomic_write(
    path: Path, n_bytes: int = 0, previous: Path | None = None, may_be_kept: bool = False
) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` when the block ends without an exception.

    The temporary file of a path always has the same name: what a killed process leaves is overwritten by the next
    write and never piles up, as unique names would let it. Processes that write the same path take turns.

    Args:
        path: the file to write.
        n_bytes: expected size, for the message about a full disk; 0 if unknown.
        previous: where to keep the file that is replaced, if any.
        may_be_kept: whether it may lie in log/kept.

    Raises:
        DiskFullError: the disk is full; what was at `path` is still there.
        ValueError: the path lies in log/kept.
    """
    if not may_be_kept:
        refuse_kept(path)
    temporary = path.with_name(path.name + ".tmp")
    with explain_disk_full(path, n_bytes), _locked(temporary):
        try:
            yield temporary
            if previous and path.exists():
                path.replace(previous)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Create a file and lock it, after waiting for other processes; the lock ends with the block or the process."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                yield
                return
        # The process before has moved or removed the file that this one waited for.


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file atomically.

    Raises:
        DiskFullError: the disk is full.
    """
    with atomic_write(path, array.nbytes) as temporary, temporary.open("wb") as file:
        # NumPy writes to a real file by itself, and overlooks that the disk has no room for the last bytes.
        np.save(SimpleNamespace(write=file.write), array)
