"""A long run watched from outside: the part `soak` of utils.benchmark."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config_HeLLM import parse_args
from utils.cli.errors import run_program
from utils.cli.flags import Parser
from utils.logs.records import read_metrics
from utils.logs.run_log import log_path
from utils.runtime.signals import StopTraining

PROGRAM = Path(__file__).parents[2] / "train_HeLLM.py"
EPOCHS = 10**6  # more than there is time for
EVERY, PRINT_EVERY = 10.0, 300.0  # seconds between two samples, and two lines about them
LEAST_SAMPLES = 30  # a shorter time than theirs has them more often
WARMUP_SHARE = 0.1  # share of the time after which nothing should grow any more
LEAST_EPOCHS = 2  # in that share, so that the highest there is known
MOST_GROWTH = 0.02  # of resident memory


@dataclass(frozen=True)
class Sample:
    """What a process holds at a moment."""

    seconds: float  # since its first epoch was done
    resident: int  # bytes, the most since the sample before
    files: int  # open ones
    threads: int
    log: int  # bytes of log and metrics
    epochs: int  # done

    def __str__(self) -> str:
        return (
            f"{self.seconds / 60:5.1f} min: epoch {self.epochs:,}, resident {self.resident / 1e6:.1f} MB at most, "
            f"{self.files} open files, {self.threads} threads, log and metrics {self.log:,} bytes"
        )


def soak(argv: list[str]) -> None:
    """Fine-tune for some minutes in one process, as the demo does unless flags say otherwise, and print what it holds.

    It starts with its first epoch done, ends by SIGTERM, and leaves its files in a folder that is removed.

    Raises:
        ValueError: the run refuses its settings or data.
        StopTraining: it ended otherwise, or memory or open files grew.
    """
    parser = Parser(prog="python -m tests.robustness.soak", add_help=False, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=120.0)
    given, rest = parser.parse_known_args(argv)
    if not 0 < given.minutes < float("inf"):
        parser.error(f"--minutes {given.minutes}: above 0")
    with tempfile.TemporaryDirectory() as place:
        flags = ["--preset", "demo", *rest, "--num_epochs", str(EPOCHS), "--patience", "0", "--no-resume"]
        flags += ["--output_dir", f"{place}/output", "--logging_dir", f"{place}/log"]
        settings = parse_args(flags)
        files = [log_path(settings, name) for name in ("log.txt", "metrics.jsonl", "curves.png")]
        samples = monitor(flags, files, 60 * given.minutes, Path(place, "errors.txt"))
    lines, problems = assess(samples)
    print("\n".join(lines), flush=True)
    if problems:
        raise StopTraining("; ".join(problems), 1)


def monitor(flags: list[str], files: list[Path], seconds: float, errors: Path) -> list[Sample]:
    """Samples of a run over some seconds from its first epoch on; a line about every few of them is printed.

    Args:
        flags: of train_HeLLM.py; files: log, metrics and curves of the run; errors: where its complaints go.
    """
    samples, told = [], 0.0
    with training_process(flags, errors) as process:
        while not files[-1].is_file():  # the last of an epoch: drawing the first one opens fonts for good
            check_running(process, errors)
            time.sleep(1)
        begun = time.monotonic()
        peak_resident(Path("/proc", str(process.pid)))  # of the start
        while not samples or samples[-1].seconds < seconds:
            check_running(process, errors)
            samples.append(take_sample(process.pid, time.monotonic() - begun, files[:-1]))
            if samples[-1].seconds >= told:
                print(samples[-1], flush=True)
                told += PRINT_EVERY
            time.sleep(min(EVERY, seconds / LEAST_SAMPLES))
        process.terminate()
        if process.wait() != 128 + signal.SIGTERM:
            raise StopTraining(f"SIGTERM ended it with exit status {process.returncode}, not {128 + signal.SIGTERM}", 1)
    return samples


@contextmanager
def training_process(flags: list[str], errors: Path) -> Iterator[subprocess.Popen]:
    """The training program in a process of its own, which ends with the block, and where this one gets a SIGTERM."""
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with errors.open("wb") as file:
        command = [sys.executable, str(PROGRAM), *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        signal.signal(signal.SIGTERM, before)


def check_running(process: subprocess.Popen, errors: Path) -> None:
    """See that it goes on.

    Raises:
        ValueError: it refused its settings or data, as it says; StopTraining: it ended otherwise.
    """
    if process.poll() is None:
        return
    last = (errors.read_text(errors="replace").splitlines() or ["it said nothing"])[-1]
    if process.returncode == 2:
        raise ValueError(last.removeprefix("error: "))
    raise StopTraining(f"the run ended by itself with exit status {process.returncode}: {last}", 1)


def take_sample(pid: int, seconds: float, files: list[Path]) -> Sample:
    """What a process, and its log and metrics, hold now, and its memory at most since the last one."""
    proc = Path("/proc", str(pid))  # of Linux
    open_files, threads = (len(list((proc / name).iterdir())) for name in ("fd", "task"))
    log = sum(path.stat().st_size for path in files)
    return Sample(seconds, peak_resident(proc), open_files, threads, log, len(read_metrics(files[1])[0]))


def peak_resident(proc: Path) -> int:
    """The most bytes that a process has held in memory at a moment since this was last asked.

    A moment counts however short it is: an epoch is highest for less than a second, while users are scored.
    """
    peak = int((proc / "status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    (proc / "clear_refs").write_text("5")  # proc(5): what is held now is the new beginning
    return peak


def assess(samples: list[Sample]) -> tuple[list[str], list[str]]:
    """What samples say in all, as lines, and what is wrong, a phrase each.

    Memory goes up and down within an epoch: the highest of the settled time is compared with the highest before it.
    Open files are flat if the least of the second half, in which none is open for a moment only, is that of the first.
    """
    end = samples[-1].seconds
    early = [one for one in samples if one.seconds <= WARMUP_SHARE * end]
    settled = samples[len(early) :]
    base, highest = (max(one.resident for one in part) for part in (early, settled))
    growth = highest / base - 1
    first, last = samples[0], samples[-1]
    each = (last.log - first.log) / max(last.epochs - first.epochs, 1)
    files, threads = ([getattr(one, name) for one in settled] for name in ("files", "threads"))
    half = (len(files) + 1) // 2
    lines = [
        f"resident memory (VmHWM in /proc/PID/status): highest in the first {100 * WARMUP_SHARE:.0f} % of the time "
        f"{base / 1e6:.1f} MB, after that {highest / 1e6:.1f} MB, growth {100 * growth:.2f} %",
        f"open files {min(files)} to {max(files)}, threads {min(threads)} to {max(threads)}",
        f"log and metrics {each:,.0f} bytes an epoch, {last.epochs:,} epochs in {end / 60:.1f} minutes",
    ]
    problems = []
    if early[-1].epochs - first.epochs < LEAST_EPOCHS:
        what = f"no {LEAST_EPOCHS} epochs, validation among them, in the first {100 * WARMUP_SHARE:.0f} % of the time"
        problems.append(f"{what}: too short to say whether memory grew, give more --minutes")
    elif growth > MOST_GROWTH:
        problems.append(f"resident memory grew by {100 * growth:.2f} %, more than {100 * MOST_GROWTH:.0f} %")
    if min(files[half:], default=0) > min(files[:half]):
        problems.append(f"open files grew from {min(files[:half])} to {min(files[half:])}")
    return lines, problems


def main(argv: list[str]) -> int:
    """Run the soak; returns the exit status."""
    try:
        return run_program(soak, argv)
    except StopTraining as stop:
        print(stop, flush=True)
        return stop.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
