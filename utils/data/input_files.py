"""A complete training state: what is trained, the optimiser, every random generator, the place in the run."""

from collections.abc import Iterable
from pathlib import Path

from utils.io.checksums import file_crc32


def input_checksums(paths: Iterable[Path]) -> dict[str, str]:
    """What a state says of the data files that it depends on: their names and CRC-32."""
    return {f"CRC-32 of {path.name}": file_crc32(path) for path in paths}


def changed_inputs(recorded: dict, paths: list[Path]) -> list[Path]:
    """Those of some data files that are not what was read by the settings in a state, `recorded`."""
    return [path for path in paths if not input_checksums([path]).items() <= recorded.items()]


def require_same_inputs(folder: Path, recorded: dict, paths: list[Path]) -> None:
    """Compare data files with those that a run was trained on.

    Args:
        folder: of the run; recorded: the settings in its state.

    Raises:
        ValueError: naming those that are others.
    """
    if others := changed_inputs(recorded, paths):
        told = ", ".join(f"CRC-32 of {path.name}" for path in others)
        what = f"{paths[0].parent}: other files than {folder} was trained on: {told} differs"
        raise ValueError(f"{what}; put back those, or train it anew")
