"""Standard output and errors, which may be closed, have no room, or be read by nobody any more."""

import io
import os
import sys


def prepare_output() -> None:
    """Let a stream that is closed lead to nothing, and "?" stand for letters that standard output can't write."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def drop_output() -> None:
    """From now on standard output leads to nothing, what it still holds as well."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


def is_stuck() -> bool:
    """Whether standard output holds what it can't write, which is then dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        return True
    return False


def show(text: str) -> None:
    """Print a line at once; where nobody reads it any more, or it has no room, go on without."""
    try:
        print(text, flush=True)
    except OSError:
        drop_output()
