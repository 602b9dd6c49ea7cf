"""What the measuring tools share: settings, a process of its own for every measurement, processor seconds, tables."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

import torch

from utils.cli.validation import check_names
from utils.runtime.memory import rss_bytes

T = TypeVar("T")


@dataclass(frozen=True)
class DataSettings:
    """The dataset that is measured on."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # folder that holds sequential/DATASET/


def validate_data_settings(settings: DataSettings) -> list[str]:
    """Return all problems of the settings, one phrase per problem."""
    return check_names(settings, "dataset")


def in_new_process(function: Callable[..., T], *args) -> T:
    """Return what a function returns in a new process that has nothing loaded, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def in_own_process(measure: Callable[..., T], *args) -> tuple[T, float]:
    """Call a function in a new process that computes with one thread.

    Args:
        measure: a function of a module, so that it can be sent to the process, as can its arguments and result.
        args: its arguments.

    Returns:
        Its result, and the peak resident memory of the process in GB.

    Raises:
        MemoryError: the process was killed, most likely because the machine has no memory left.
    """
    # Every process is forked from a server that has the modules loaded and has computed nothing
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["utils.benchmark.trainings"])
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) as process:
        try:
            return process.submit(_with_peak, measure, args).result()
        except BrokenProcessPool as error:
            raise MemoryError(f"{measure.__name__}: killed, most likely for want of memory") from error


def _with_peak(measure: Callable[..., T], args: tuple) -> tuple[T, float]:
    return measure(*args), rss_bytes("VmHWM") / 1e9


def time_parts(parts: Sequence[Callable[[], object]], limit: float) -> tuple[float, int]:
    """Call functions one after another until they have taken `limit` processor seconds.

    Args:
        parts: equally large parts of a job, at least one; the first is always called.
        limit: processor seconds, user and system.

    Returns:
        The processor seconds of the job, extrapolated from the parts that were called, and the number of these.
    """
    started = time.process_time()
    seconds = 0.0
    done = 0
    while not done or (done < len(parts) and seconds <= limit):
        parts[done]()
        done += 1
        seconds = time.process_time() - started
    return seconds * len(parts) / done, done


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(columns) + " |")
    print("| --- " * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
