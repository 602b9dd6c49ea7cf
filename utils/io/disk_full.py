"""What files on disk need besides their content: a checksum at the end, and words for a disk that is full."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """A file that the disk has no room for."""


@contextlib.contextmanager
def explain_disk_full(path: Path, temporary: Path, needed: int = 0) -> Iterator[None]:
    """Where the disk has no room for what the block writes, remove it and say which disk, and how much it takes.

    Args:
        path: what is to be written; temporary: where it is written until it is whole, or `path` itself, which stays.
        needed: bytes; 0 where nobody knows.

    Raises:
        DiskFullError: naming path, disk and bytes.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save puts an error of its own before the disk's
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno not in DISK_FULL_ERRNOS:
            raise
        written = temporary.stat().st_size if temporary.exists() else 0
        if temporary != path:
            temporary.unlink(missing_ok=True)
        disk = next(p for p in path.absolute().parents if p.is_mount())
        takes = f"{needed:,} bytes" if needed else f"more than {written:,} bytes"
        raise DiskFullError(
            f"{path}: no room on the disk at {disk} ({cause.strerror}): the file takes {takes}, "
            f"{shutil.disk_usage(disk).free:,} are free"
        ) from error
