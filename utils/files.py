"""Files that are never half written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from llama.files import told_when_full


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it takes the path's place once the block ends without an exception.

    Raises:
        Unwritten: the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    with told_when_full(path, temporary):
        yield temporary
        temporary.replace(path)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, whole or not at all.

    Raises:
        Unwritten: the disk is full.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        # Into a file proper NumPy writes by itself, and does not see that the disk has no room for the last bytes.
        np.save(SimpleNamespace(write=file.write), array)
