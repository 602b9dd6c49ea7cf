"""A soak test: fine-tune for two hours in one process and watch it for leaks.

    python -m tests.robustness.soak [--minutes 120] [any flag of train_HeLLM.py]

It trains on the demo category unless flags name another dataset, prints one line every five minutes and a summary, and
exits with status 1 if resident memory or open files grew. The run ends by SIGTERM; its files are removed.
"""

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
NUM_EPOCHS = 10**6  # more than there is time for
SAMPLE_SECONDS = 10.0  # between two samples
PRINT_SECONDS = 300.0  # between two printed samples
MIN_SAMPLES = 30  # a short run is sampled more often than every SAMPLE_SECONDS
WARMUP_SHARE = 0.1  # share of the time after which nothing should grow any more
MIN_WARMUP_EPOCHS = 2  # so that the highest memory use of an epoch falls into the warm-up
MAX_GROWTH = 0.02  # of resident memory after the warm-up


@dataclass(frozen=True)
class Sample:
    """Resources of the training process at one moment."""

    seconds: float  # since the end of its first epoch
    peak_rss: int  # bytes, the highest since the previous sample
    open_files: int
    threads: int
    log_bytes: int  # of the text log and the metrics
    epochs: int  # completed

    def __str__(self) -> str:
        return (
            f"{self.seconds / 60:5.1f} min: epoch {self.epochs:,}, resident {self.peak_rss / 1e6:.1f} MB at most, "
            f"{self.open_files} open files, {self.threads} threads, log and metrics {self.log_bytes:,} bytes"
        )


def soak(argv: list[str]) -> None:
    """Fine-tune for some minutes after the first epoch and print the resources of the process.

    Args:
        argv: `--minutes` and flags of train_HeLLM.py.

    Raises:
        ValueError: the run refuses its settings or data.
        StopTraining: the run ended by itself, or memory or open files grew.
    """
    parser = Parser(prog="python -m tests.robustness.soak", add_help=False)
    parser.add_argument("--minutes", type=float, default=120.0)
    known, rest = parser.parse_known_args(argv)
    if not 0 < known.minutes < float("inf"):
        parser.error(f"--minutes {known.minutes}: above 0")

    with tempfile.TemporaryDirectory() as folder:
        flags = ["--preset", "demo", *rest, "--num_epochs", str(NUM_EPOCHS), "--patience", "0", "--no-resume"]
        flags += ["--output_dir", f"{folder}/output", "--logging_dir", f"{folder}/log"]
        settings = parse_args(flags)
        files = [log_path(settings, name) for name in ("log.txt", "metrics.jsonl", "curves.png")]
        samples = monitor(flags, files, 60 * known.minutes, Path(folder, "errors.txt"))

    lines, problems = assess(samples)
    print("\n".join(lines), flush=True)
    if problems:
        raise StopTraining("; ".join(problems), 1)


def monitor(flags: list[str], files: list[Path], seconds: float, errors: Path) -> list[Sample]:
    """Run the training program for some seconds after its first epoch; print and return samples of it.

    Args:
        flags: flags of train_HeLLM.py.
        files: text log, metrics and curves of the run.
        seconds: time between the first and the last sample.
        errors: file for the standard error of the run.
    """
    *logs, curves = files
    samples = []
    next_print = 0.0
    with training_process(flags, errors) as process:
        # The curves are the last file of an epoch; plotting them for the first time opens fonts that stay open
        while not curves.is_file():
            check_running(process, errors)
            time.sleep(1)
        start = time.monotonic()
        reset_peak_rss(Path("/proc", str(process.pid)))  # forget the peak of the first epoch
        while not samples or samples[-1].seconds < seconds:
            check_running(process, errors)
            samples.append(take_sample(process.pid, time.monotonic() - start, logs))
            if samples[-1].seconds >= next_print:
                print(samples[-1], flush=True)
                next_print += PRINT_SECONDS
            time.sleep(min(SAMPLE_SECONDS, seconds / MIN_SAMPLES))
        process.terminate()
        expected = 128 + signal.SIGTERM
        if process.wait() != expected:
            raise StopTraining(f"SIGTERM ended it with exit status {process.returncode}, not {expected}", 1)
    return samples


@contextmanager
def training_process(flags: list[str], errors: Path) -> Iterator[subprocess.Popen]:
    """Run the training program in a process that ends with the block, and when this process receives SIGTERM."""
    previous = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with errors.open("wb") as file:
        command = [sys.executable, str(PROGRAM), *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        signal.signal(signal.SIGTERM, previous)


def check_running(process: subprocess.Popen, errors: Path) -> None:
    """Check that the run has not ended.

    Raises:
        ValueError: the run refused its settings or data; the message is its own.
        StopTraining: the run ended otherwise.
    """
    if process.poll() is None:
        return
    lines = errors.read_text(errors="replace").splitlines() or ["no message on standard error"]
    if process.returncode == 2:
        raise ValueError(lines[-1].removeprefix("error: "))
    raise StopTraining(f"the run ended by itself with exit status {process.returncode}: {lines[-1]}", 1)


def take_sample(pid: int, seconds: float, logs: list[Path]) -> Sample:
    """Sample the resources of a process (Linux only).

    Args:
        pid: the process.
        seconds: time of the sample.
        logs: text log and metrics of its run.
    """
    proc = Path("/proc", str(pid))
    peak = peak_rss(proc)
    reset_peak_rss(proc)
    return Sample(
        seconds=seconds,
        peak_rss=peak,
        open_files=len(list((proc / "fd").iterdir())),
        threads=len(list((proc / "task").iterdir())),
        log_bytes=sum(path.stat().st_size for path in logs),
        epochs=len(read_metrics(logs[1])[0]),
    )


def peak_rss(proc: Path) -> int:
    """Return the highest resident memory of a process, in bytes, since `reset_peak_rss`.

    Users are scored in less than a second per epoch; a sample of the current memory would miss that peak.
    """
    return int((proc / "status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def reset_peak_rss(proc: Path) -> None:
    """Let the peak start again from the current memory (proc(5), clear_refs)."""
    (proc / "clear_refs").write_text("5")


def assess(samples: list[Sample]) -> tuple[list[str], list[str]]:
    """Return lines that summarise the samples, and the problems found.

    Memory rises and falls within an epoch: the highest value after the warm-up is compared with the highest before.
    Some files are open for a moment only: the lowest number of the second half is compared with that of the first.
    """
    first, last = samples[0], samples[-1]
    warmup = [sample for sample in samples if sample.seconds <= WARMUP_SHARE * last.seconds]
    settled = samples[len(warmup) :]
    before = max(sample.peak_rss for sample in warmup)
    after = max(sample.peak_rss for sample in settled)
    growth = after / before - 1
    bytes_per_epoch = (last.log_bytes - first.log_bytes) / max(last.epochs - first.epochs, 1)
    files = [sample.open_files for sample in settled]
    threads = [sample.threads for sample in settled]
    half = (len(files) + 1) // 2
    share = f"first {100 * WARMUP_SHARE:.0f} % of the time"
    lines = [
        f"resident memory (VmHWM in /proc/PID/status): highest in the {share} {before / 1e6:.1f} MB, "
        f"after that {after / 1e6:.1f} MB, growth {100 * growth:.2f} %",
        f"open files {min(files)} to {max(files)}, threads {min(threads)} to {max(threads)}",
        f"log and metrics {bytes_per_epoch:,.0f} bytes per epoch, {last.epochs:,} epochs in "
        f"{last.seconds / 60:.1f} minutes",
    ]
    problems = []
    if warmup[-1].epochs - first.epochs < MIN_WARMUP_EPOCHS:
        problems.append(
            f"fewer than {MIN_WARMUP_EPOCHS} epochs in the {share}: too short to tell whether memory grew, "
            "give more --minutes"
        )
    elif growth > MAX_GROWTH:
        problems.append(f"resident memory grew by {100 * growth:.2f} %, more than {100 * MAX_GROWTH:.0f} %")
    if min(files[half:], default=0) > min(files[:half]):
        problems.append(f"open files grew from {min(files[:half])} to {min(files[half:])}")
    return lines, problems


def main(argv: list[str]) -> int:
    """Run the soak test; return the exit status."""
    try:
        return run_program(soak, argv)
    except StopTraining as stop:
        print(stop, flush=True)
        return stop.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
