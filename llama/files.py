"""What files on disk need besides their content: a checksum at the end, and words for a disk that is full."""

import contextlib
import errno
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = 2**20  # bytes that are read at a time
SEAL = b"HeLLM CRC-32 %08x\n"  # behind a file's content, which it sums up; readers of zip archives pass over it
SEAL_SIZE = len(SEAL % 0)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Damaged(ValueError):
    """A file that is not what was written."""


class Unwritten(OSError):
    """A file that the disk has no room for."""


class Sealing:
    """A binary file that is written in order, its CRC-32 counted on the way.

    Any one flipped bit or byte, and any burst of up to 32 bits, changes a CRC-32; it is meant against accidents, and
    is five times as fast as a cryptographic hash.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc = file, 0

    def write(self, data) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def seal(self) -> None:
        """End the file with its checksum, and wait until it is on the disk."""
        self.file.write(SEAL % self.crc)
        self.file.flush()
        os.fsync(self.file.fileno())


def _crc_of(file: BinaryIO, size: int) -> int:
    """CRC-32 of the next `size` bytes."""
    crc = 0
    while size > 0 and (chunk := file.read(min(size, CHUNK))):
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc


def crc_of(path: Path) -> str:
    """What tells a file's content from another's: its CRC-32, eight hexadecimal digits."""
    with path.open("rb") as file:
        return f"{_crc_of(file, path.stat().st_size):08x}"


def check_seal(path: Path) -> None:
    """See that a file ends with the checksum of all that is before; it is read once, a piece at a time.

    Raises:
        FileNotFoundError: no such file.
        Damaged: cut short, changed, or never sealed.
    """
    with path.open("rb") as file:
        crc = _crc_of(file, path.stat().st_size - SEAL_SIZE)
        if file.read() != SEAL % crc:
            raise Damaged(f"{path}: cut short or damaged, or of another version: its checksum does not fit")


@contextlib.contextmanager
def told_when_full(path: Path, temporary: Path, needed: int = 0) -> Iterator[None]:
    """Where the disk has no room for what the block writes, remove it and say which disk, and how much it takes.

    Args:
        path: what is to be written; temporary: where it is written until it is whole, or `path` itself, which stays.
        needed: bytes; 0 where nobody knows.

    Raises:
        Unwritten: naming path, disk and bytes.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save puts an error of its own before the disk's
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno not in FULL:
            raise
        written = temporary.stat().st_size if temporary.exists() else 0
        if temporary != path:
            temporary.unlink(missing_ok=True)
        disk = next(p for p in path.absolute().parents if p.is_mount())
        takes = f"{needed:,} bytes" if needed else f"more than {written:,} bytes"
        raise Unwritten(
            f"{path}: no room on the disk at {disk} ({cause.strerror}): the file takes {takes}, "
            f"{shutil.disk_usage(disk).free:,} are free"
        ) from error
