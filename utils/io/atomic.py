"""Files that are never half written."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from utils.io.disk_full import explain_disk_full


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it takes the path's place once the block ends without an exception.

    What a killed process left there is written over; while another process is at it, this one waits.

    Raises:
        DiskFullError: the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    with explain_disk_full(path, temporary), _exclusive(temporary):
        yield temporary
        temporary.replace(path)


@contextlib.contextmanager
def _exclusive(temporary: Path) -> Iterator[None]:
    """Make a file and keep others that ask for it waiting; the lock is the system's and ends with the process."""
    held = False
    while not held:  # what was waited for may have become another file since
        with contextlib.ExitStack() as leaving:
            file = leaving.enter_context(temporary.open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                held = os.path.samestat(os.fstat(file.fileno()), temporary.stat())
            if held:
                yield


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, whole or not at all.

    Raises:
        DiskFullError: the disk is full.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        # Into a file proper NumPy writes by itself, and does not see that the disk has no room for the last bytes.
        np.save(SimpleNamespace(write=file.write), array)
