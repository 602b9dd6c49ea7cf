"""Checksums of files, and the trailer that ends each file of weights or training state with its own.

A zip archive, as torch.save writes it, has a CRC-32 of each entry but none of its directory and headers: of the 11,256
single-bit flips of a small training state, `zipfile.ZipFile.testzip` misses 884, one of which then loads as other
values. The trailer covers every byte. Readers of zip archives ignore what follows the archive.
"""

import os
import zlib
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 2**20
CHECKSUM_TRAILER = b"HeLLM CRC-32 %08x\n"
TRAILER_SIZE = len(CHECKSUM_TRAILER % 0)


class CorruptFileError(ValueError):
    """A file that is not as it was written."""


class ChecksumWriter:
    """A binary file, written in order, that counts the CRC-32 of what it writes.

    A CRC-32 changes with any flipped bit and any burst of up to 32 bits. It guards against accidents, not against
    attackers, and is five times as fast as a cryptographic hash.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.crc = 0

    def write(self, data) -> int:
        """Write bytes; return their number."""
        self.crc = zlib.crc32(data, self.crc)
        return self.file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()

    def write_trailer(self) -> None:
        """End the file with its checksum, and wait until it is on the disk."""
        self.file.write(CHECKSUM_TRAILER % self.crc)
        self.file.flush()
        os.fsync(self.file.fileno())


def _crc32_of_next(file: BinaryIO, size: int) -> int:
    """Return the CRC-32 of the next `size` bytes, reading a chunk at a time."""
    crc = 0
    while size > 0 and (chunk := file.read(min(size, CHUNK_BYTES))):
        crc = zlib.crc32(chunk, crc)
        size -= len(chunk)
    return crc


def file_crc32(path: Path) -> str:
    """Return the CRC-32 of a file's content as eight hexadecimal digits."""
    with path.open("rb") as file:
        return f"{_crc32_of_next(file, path.stat().st_size):08x}"


def verify_checksum(path: Path) -> None:
    """Check that a file ends with the checksum of everything before it.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: it is cut short or changed, or has no checksum.
    """
    with path.open("rb") as file:
        crc = _crc32_of_next(file, path.stat().st_size - TRAILER_SIZE)
        if file.read() != CHECKSUM_TRAILER % crc:
            raise CorruptFileError(f"{path}: cut short or damaged, or of another version: its checksum does not fit")
