"""What files on disk need besides their content: a checksum at the end, and words for a disk that is full."""

import os
import zlib
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 2**20  # bytes that are read at a time
CHECKSUM_TRAILER = (
    b"HeLLM CRC-32 %08x\n"  # behind a file's content, which it sums up; readers of zip archives pass over it
)
TRAILER_SIZE = len(CHECKSUM_TRAILER % 0)


class CorruptFileError(ValueError):
    """A file that is not what was written."""


class ChecksumWriter:
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
        self.file.write(CHECKSUM_TRAILER % self.crc)
        self.file.flush()
        os.fsync(self.file.fileno())


def _crc32_of_next(file: BinaryIO, size: int) -> int:
    """CRC-32 of the next `size` bytes."""
    crc = 0
    while size > 0 and (chunk := file.read(min(size, CHUNK_BYTES))):
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc


def file_crc32(path: Path) -> str:
    """What tells a file's content from another's: its CRC-32, eight hexadecimal digits."""
    with path.open("rb") as file:
        return f"{_crc32_of_next(file, path.stat().st_size):08x}"


def verify_checksum(path: Path) -> None:
    """See that a file ends with the checksum of all that is before; it is read once, a piece at a time.

    Raises:
        FileNotFoundError: no such file.
        CorruptFileError: cut short, changed, or never sealed.
    """
    with path.open("rb") as file:
        crc = _crc32_of_next(file, path.stat().st_size - TRAILER_SIZE)
        if file.read() != CHECKSUM_TRAILER % crc:
            raise CorruptFileError(f"{path}: cut short or damaged, or of another version: its checksum does not fit")
