"""A readable error for a full disk."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """A file for which the disk has no room."""


@contextlib.contextmanager
def explain_disk_full(path: Path, n_bytes: int = 0) -> Iterator[None]:
    """Turn the error of a full disk, raised in the block, into one that names the disk and the room on it.

    Args:
        path: the file that the block writes.
        n_bytes: size that the file would have; 0 if unknown.

    Raises:
        DiskFullError: the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError of its own while it handles the disk's error.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno not in DISK_FULL_ERRNOS:
            raise
        disk = next(parent for parent in path.absolute().parents if parent.is_mount())
        room = f"{shutil.disk_usage(disk).free:,} bytes are free"
        if n_bytes:
            room = f"the file takes {n_bytes:,} bytes, {room}"
        raise DiskFullError(f"{path}: no room on the disk at {disk} ({cause.strerror}): {room}") from error
