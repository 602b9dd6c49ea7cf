"""Command-line flags from a dataclass of settings, and how a user's mistake is reported."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable

from utils.cli.terminal import make_output_safe, silence_stdout
from utils.io.disk_full import DISK_FULL_ERRNOS, DiskFullError

OS_ERROR_HINTS = {  # of what the system says about a file
    errno.EACCES: "allow this user to read it, or to write there",
    errno.EISDIR: "a folder where a file belongs: remove it, or give the file's own path",
    errno.ENOTDIR: "a file where a folder belongs: remove it, or give the folder's own path",
    errno.ENOENT: "give the path of a file that is there",
}
RANK0_GRACE_SECONDS = 3.0  # seconds after which a mistake must be this process's alone


def report_user_error(problem: object) -> int:
    """Print a user's mistake as one line on standard error and return the exit status for it, 2; of a full disk, 1.

    Nothing is said where whoever reads standard output has gone.
    """
    if isinstance(problem, BrokenPipeError):
        silence_stdout()
        return 128 + signal.SIGPIPE
    if (
        isinstance(problem, OSError) and problem.errno in DISK_FULL_ERRNOS and not problem.filename
    ):  # files say so: `DiskFullError`
        silence_stdout()
        problem = DiskFullError(f"standard output: {problem.strerror}; make room there, or send it elsewhere")
    if os.environ.get("RANK", "0") != "0":  # the first of several processes says the same and ends the job
        time.sleep(RANK0_GRACE_SECONDS)
    if isinstance(problem, OSError) and problem.filename and problem.errno in OS_ERROR_HINTS:
        problem = f"{problem.filename}: {problem.strerror}; {OS_ERROR_HINTS[problem.errno]}"
    print("error:", " ".join(str(problem).split()), file=sys.stderr)
    return 1 if isinstance(problem, DiskFullError) else 2


def run_program(work: Callable[..., object], *args) -> int:
    """Do what a program is for, `work(*args)`; returns the exit status, a user's mistake told as by `complain`."""
    make_output_safe()
    try:
        work(*args)
        sys.stdout.flush()
    except (ValueError, OSError) as mistake:
        return report_user_error(mistake)
    except KeyboardInterrupt:
        print("SIGINT: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0
