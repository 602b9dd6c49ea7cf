"""An exclusive, crash-safe lock on a folder or on the files of one prefix."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from utils.io.disk_full import explain_disk_full
from utils.io.kept import refuse_kept
from utils.runtime.processes import all_reduce_max, is_main

LOCK_FILE = "held_by.txt"  # in the folder, or after the prefix: names the process that runs; empty when it has ended


class RunInUseError(ValueError):
    """Another process uses a folder or files."""


@contextlib.contextmanager
def run_lock(target: Path, is_prefix: bool = False, flag: str = "--target") -> Iterator[str]:
    """Lock a folder, which is made if it does not exist, or a prefix of files, while the block runs.

    The operating system holds the lock and releases it with the process, however that ends. Of a distributed job
    rank 0 takes it; all ranks must call.

    Args:
        target: the folder, or the prefix of files.
        is_prefix: lock the files whose names begin with the target and "_", not the folder of this name.
        flag: flag to suggest in the error, by which the program uses another target.

    Yields:
        A sentence for the log about a process that ended without releasing the lock; normally empty.

    Raises:
        RunInUseError: another process holds the lock; names it, its host and the time since when.
        DiskFullError: the disk is full.
        ValueError: the target lies in log/kept.
    """
    refuse_kept(target)
    path = target.with_name(f"{target.name}_{LOCK_FILE}") if is_prefix else target / LOCK_FILE
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    is_locked_by_other = False
    previous = ""
    if is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            is_locked_by_other = True
        previous = path.read_text(encoding="utf-8", errors="replace")
    if any(all_reduce_max(is_locked_by_other)):
        owner = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "another process"
        raise RunInUseError(f"{target}: in use by {owner}; wait for it, stop it, or use another {flag}")
    try:
        if is_main():
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            with explain_disk_full(path):
                path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}", encoding="utf-8")
        yield f"{target} was in use by {previous}, which ended without releasing it" if previous else ""
    finally:
        if lock.is_locked:
            path.write_text("", encoding="utf-8")
            lock.release()
