"""Standard output and errors that may be closed, full, or no longer read."""

import io
import os
import sys
from pathlib import Path


def make_output_safe() -> None:
    """Send closed streams to the null device, and print "?" for characters that standard output can't encode."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def silence_stdout() -> None:
    """Send standard output, and what it still buffers, to the null device."""
    with Path(os.devnull).open("wb") as null_device:
        os.dup2(null_device.fileno(), sys.stdout.fileno())


def print_line(text: str) -> None:
    """Print a line at once; ignore a closed or full standard output."""
    try:
        print(text, flush=True)
    except OSError:
        silence_stdout()
