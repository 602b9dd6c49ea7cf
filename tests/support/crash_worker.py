"""A program in a process whose disk fills up, or that is killed or interrupted at a chosen moment."""

import importlib
import os
import resource
import signal
import sys
from pathlib import Path

from tests.support.forks import redirect_output


def run_program(
    name: str, argv: list[str], errors: str, limit: int = 0, state: int = 0, die: bool = False, interrupt: str = ""
) -> None:
    """Run the `main` of a module and exit with its status.

    Args:
        name: the module.
        argv: its arguments.
        errors: file for its standard error.
        limit: largest number of bytes that it may write into one file; 0: any number.
        state: the training state, counted from 1, from whose writing on the limit holds; 0: from the start.
        die: whether the limit kills the process, as SIGKILL may at any time; else writing fails, as on a full disk.
        interrupt: end of a path that raises SIGINT when it is opened or a file is moved to it; empty: none.
    """
    redirect_output(Path(os.devnull), Path(errors))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have inherited SIG_IGN
    if die:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if limit and not state:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    n_states = 0

    def watch(event: str, args: tuple) -> None:
        nonlocal n_states
        if event not in ("open", "os.rename"):
            return
        path = str(args[1] if event == "os.rename" else args[0])
        if interrupt and path.endswith(interrupt):
            signal.raise_signal(signal.SIGINT)
        if event == "open" and path.endswith("training_state.pt.tmp") and "w" in (args[1] or ""):
            n_states += 1
            if n_states == state:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    sys.addaudithook(watch)
    sys.exit(importlib.import_module(name).main(argv))
