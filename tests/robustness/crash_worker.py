"""A program in a process that test_crashes kills; imports next to nothing, so that it starts at once."""

import importlib
import os
import resource
import signal
import sys
from pathlib import Path


def work(name: str, argv: list[str], errors: str, limit: int, state: int, die: bool, interrupt: str) -> None:
    """Run a program of that name; what it complains of goes into a file `errors`.

    Args:
        limit: most bytes that it may write into a file, 0 for any number.
        state: from the writing of which training state on, counted from 1; 0: from the start.
        die: at the first byte too many, as by a kill; else the system refuses it, as on a full disk.
        interrupt: end of the path that it opens, or moves a file to, when it gets a SIGINT; "": none.
    """
    with Path(errors).open("w") as file:
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background may have lost
    if die:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if limit and not state:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    opened = 0

    def count(event: str, args: tuple) -> None:
        nonlocal opened
        path = str(args[event == "os.rename"]) if event in ("open", "os.rename") else ""
        if interrupt and path.endswith(interrupt):
            signal.raise_signal(signal.SIGINT)
        if event == "open" and path.endswith("training_state.pt.tmp"):
            opened += 1
            if opened == state:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    sys.addaudithook(count)
    sys.exit(importlib.import_module(name).main(argv))
