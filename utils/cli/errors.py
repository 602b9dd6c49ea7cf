"""One-line error messages and exit statuses."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable

from utils.cli.terminal import make_output_safe, silence_stdout
from utils.io.disk_full import DISK_FULL_ERRNOS, DiskFullError

OS_ERROR_HINTS = {
    errno.EACCES: "give this user permission to read it, or to write there",
    errno.EISDIR: "a folder where a file is expected: remove it, or give the path of the file",
    errno.ENOTDIR: "a file where a folder is expected: remove it, or give the path of the folder",
    errno.ENOENT: "give the path of an existing file",
}
RANK0_GRACE_SECONDS = 3.0  # time for rank 0 to report the same error and end the job


def report_user_error(error: object) -> int:
    """Print an error as one line on standard error and return the exit status: 2, or 1 if the disk is full.

    Notes of the exception (`add_note`) follow, an indented line each.

    If the reader of standard output has gone (`head`), print nothing and return the status of SIGPIPE.

    Args:
        error: an exception or a message.
    """
    if isinstance(error, BrokenPipeError):
        silence_stdout()
        return 128 + signal.SIGPIPE
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS and not error.filename:
        # Without a file name it is standard output that is full; of files `DiskFullError` knows the path
        silence_stdout()
        error = DiskFullError(f"standard output: {error.strerror}; make room there, or redirect it")
    if os.environ.get("RANK", "0") != "0":
        time.sleep(RANK0_GRACE_SECONDS)
    notes = getattr(error, "__notes__", [])
    if isinstance(error, OSError) and error.filename and error.errno in OS_ERROR_HINTS:
        error = f"{error.filename}: {error.strerror}; {OS_ERROR_HINTS[error.errno]}"
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    for note in notes:
        print(f"  {note}", file=sys.stderr)
    return 1 if isinstance(error, DiskFullError) else 2


def run_program(work: Callable[..., object], *args) -> int:
    """Call `work(*args)` and return the exit status; report ValueError and OSError as user errors."""
    make_output_safe()
    try:
        work(*args)
        sys.stdout.flush()
    except (ValueError, OSError) as error:
        return report_user_error(error)
    except KeyboardInterrupt:
        print("SIGINT: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0
