"""One run at a time in a folder, or at files of one name."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from utils.io.disk_full import explain_disk_full
from utils.runtime.distributed import all_reduce_max, is_main

LOCK_FILE = "held_by.txt"  # in the folder, or after the files' name: who is at it; empty once a run has left it


class RunInUseError(ValueError):
    """Another run is at a folder or files."""


@contextlib.contextmanager
def run_lock(what: Path, separator: str = "/", flag: str = "--target") -> Iterator[str]:
    """Keep other runs out of a folder, made when absent, for as long as the block goes on.

    With the separator "_" from the files whose names begin with `what` and it.

    The lock is the system's and ends with the process, however that ends. The first of several processes takes it
    for all; all must call.

    Args:
        flag: of the program, which takes it to another place.

    Yields: who was there last and is gone without leaving it, in words for the log, "" mostly.

    Raises:
        Held: another run is there, with its process, host and time.
        DiskFullError: the disk is full.
    """
    with contextlib.ExitStack() as leaving:
        path, taken, gone = Path(f"{what}{separator}{LOCK_FILE}"), False, ""
        if is_main():
            path.parent.mkdir(parents=True, exist_ok=True)
            file = leaving.enter_context(path.open("ab", buffering=0))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                taken = True
            gone = path.read_text(encoding="utf-8", errors="replace")
        if any(all_reduce_max(taken)):
            who = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "another process"
            raise RunInUseError(f"{what}: held by {who}; wait for it, end it, or take another {flag}")
        if is_main():
            leaving.callback(file.truncate, 0)
            file.truncate(0)
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            with explain_disk_full(path):
                file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}".encode())
        yield f"{gone} was in {what} and is gone" if gone else ""
