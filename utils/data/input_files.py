"""Checksums of a run's data files, by which a resumed run knows them again."""

from collections.abc import Iterable
from pathlib import Path

from utils.io.checksums import file_crc32

CHECKSUM = "CRC-32 of "  # precedes the name of a file in checkpoints and logs


def input_checksums(paths: Iterable[Path]) -> dict[str, str]:
    """Return "CRC-32 of NAME" and the checksum of every data file, as checkpoints and logs record them."""
    return {CHECKSUM + path.name: file_crc32(path) for path in paths}


def changed_inputs(recorded: dict, paths: list[Path]) -> list[Path]:
    """Return the data files that differ from those a run has read.

    Args:
        recorded: settings of the run's checkpoint, the checksums among them.
        paths: data files.
    """
    return [path for path in paths if not input_checksums([path]).items() <= recorded.items()]


def require_same_inputs(folder: Path, recorded: dict, paths: list[Path]) -> None:
    """Compare data files with those that a run was trained on.

    Args:
        folder: folder of the run, for the message.
        recorded: settings of the run's checkpoint, the checksums among them.
        paths: data files.

    Raises:
        ValueError: naming those that differ.
    """
    changed = changed_inputs(recorded, paths)
    if changed:
        names = ", ".join(CHECKSUM + path.name for path in changed)
        what = f"{paths[0].parent}: other files than {folder} was trained on: {names} differs"
        raise ValueError(f"{what}; put those back, or train it again")
