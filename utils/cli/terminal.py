"""Standard output and errors, which may be closed, have no room, or be read by nobody any more."""

import io
import os
import sys
from pathlib import Path


def make_output_safe() -> None:
    """Let a stream that is closed lead to nothing, and "?" stand for letters that standard output can't write."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def silence_stdout() -> None:
    """From now on standard output leads to nothing, what it still holds as well."""
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


def print_line(text: str) -> None:
    """Print a line at once; where nobody reads it any more, or it has no room, go on without."""
    try:
        print(text, flush=True)
    except OSError:
        silence_stdout()
