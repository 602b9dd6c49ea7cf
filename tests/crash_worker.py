"""A program in a process that test_crashes kills; imports next to nothing, so that it starts at once."""

import importlib
import os
import resource
import sys
from pathlib import Path


def work(name: str, argv: list[str], errors: str, limit: int) -> None:
    """Run a program of that name; what it complains of goes into a file `errors`.

    Args:
        limit: most bytes that it may write into a file, 0 for any number.
    """
    with Path(errors).open("w") as file:
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(importlib.import_module(name).main(argv))
