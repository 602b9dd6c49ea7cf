"""The folder log/kept: the project's own runs, which no program writes."""

from pathlib import Path

KEPT = Path(__file__).parents[2] / "log" / "kept"


def refuse_kept(path: Path, remedy: str = "name another folder") -> None:
    """Keep every program from writing into log/kept, the runs behind the tables of the documentation.

    Args:
        path: the file or folder that a program is about to write.
        remedy: what the user can do instead.

    Raises:
        ValueError: the path is log/kept or lies in it.
    """
    if path.resolve().is_relative_to(KEPT):
        raise ValueError(f"{path}: log/kept is read-only, it holds the project's own runs; {remedy}")
