"""Several runs by one command: every combination of some values, or the paper's ablations.

    python train_HeLLM.py --preset best --sweep lr=1e-3,3e-3 dropout=0.2,0.3 [--sweep_shard 1/4]
    python train_HeLLM.py --preset tiny --sweep ablation
    python train_HeLLM.py --preset best --seeds 2024,2025,2026 [--committee]

Each run equals the same run alone, under a `target` that names what differs. Repeating the command resumes the sweep:
finished runs are skipped, others resume from their checkpoints. A failed run is recorded, and the next one starts.
"""

import gc
import os
import traceback
from collections.abc import Callable

import torch

from config_HeLLM import Settings
from preprocess.demo_data import ensure_demo_data
from utils.cli.errors import report_user_error
from utils.cli.terminal import print_line
from utils.io.disk_full import DiskFullError
from utils.logs.run_log import log_path
from utils.planning import plan
from utils.runtime.distributed import resolve_device
from utils.runtime.lock import RunInUseError
from utils.runtime.memory import reset_peak_memory
from utils.runtime.signals import SIGNAL_STATUS, SignalFlag, restore_default_signals
from utils.sweep.ablation import ablation_runs
from utils.sweep.command import ABLATION, Command
from utils.sweep.committee import make_committee
from utils.sweep.grid import SweepRun, grid_runs, seed_runs
from utils.sweep.results import finished_record, log_means, print_test, record_failure, write_table
from utils.training.build import build_meta_model, load_data

RunOne = Callable[[Settings, dict, SignalFlag], int]  # (settings, base_cache, signals) to an exit status


def run_sweep(command: Command, run_one: RunOne) -> int:
    """Run this shard's unfinished runs and write the table of all runs; return the exit status.

    Args:
        command: the sweep, its shard, and the settings that all runs share.
        run_one: trains and tests one configuration; the cache that it gets lets the runs share the weights of a frozen
            base, and the sweep reads the signals that it has noted. Raises ValueError or OSError for errors of the
            user, RunInUseError among them.

    Raises:
        ValueError, OSError: whatever is wrong with any run, before the first one starts.
    """
    base = command.settings
    if command.sweep == ABLATION:
        name = ABLATION
        ensure_demo_data(base)  # before the runs are listed: which ones are possible depends on the dataset's files
        runs = ablation_runs(base)
    else:
        name = "-".join(["sweep", *command.sweep]) if command.sweep else ""
        runs = grid_runs(command)
        ensure_demo_data(base)  # after the grid, which refuses invalid values before any file is written
    runs = seed_runs(runs, command.seeds)
    name = "-".join(filter(None, [name, "seeds" if command.seeds else ""]))
    selected = shard_runs(runs, command.shard)
    if base.plan:
        for settings in selected:
            print(settings.target)
            plan.print_plan(settings)
        return 0
    validate_all(runs)
    sweep = Sweep(run_one)
    status = sweep.run(selected)
    if status is not None:
        return status
    write_table(base, name, runs, sweep.running_elsewhere)
    log_means(runs, sweep.trained)
    if sweep.failed:
        return 1
    if command.committee:
        make_committee(base, [run.settings for run in runs])
    return 0


def shard_runs(runs: list[SweepRun], shard: tuple[int, int]) -> list[Settings]:
    """Return the settings of every N-th run, from the I-th, for shard (I, N).

    Runs that are left out count, so that each shard keeps its runs when they become possible.
    """
    number, count = shard
    return [run.settings for run in runs[number - 1 :: count] if run.settings]


def validate_all(runs: list[SweepRun]) -> None:
    """Check that every unfinished run has valid files and settings.

    Raises:
        ValueError: all problems of all runs; or started under torchrun with several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--sweep: runs in one process; start it without torchrun, on several machines by --sweep_shard"
        )
    problems = {}
    for run in runs:
        settings = run.settings
        if settings is None:
            continue
        try:
            if not finished_record(settings):
                tables = load_data(settings)[1]
                build_meta_model(settings, tables, resolve_device(settings.device))
        except (ValueError, OSError) as error:
            problems.setdefault(str(error), settings.target)  # once for all runs that share it
    if problems:
        raise ValueError("; ".join(f"{target}: {problem}" for problem, target in problems.items()))


class Sweep:
    """Run configurations one after the other.

    Args:
        run_one: trains and tests one, see `run_sweep`.
    """

    def __init__(self, run_one: RunOne) -> None:
        self.run_one = run_one
        self.base_cache: dict = {}
        self.failed = False  # whether any run failed
        self.trained: set[str] = set()  # targets that were trained or resumed
        self.running_elsewhere: set[str] = set()  # targets that other processes run

    def run(self, selected: list[Settings]) -> int | None:
        """Run those that are not finished; return the exit status if the sweep ends early."""
        for number, settings in enumerate(selected, 1):
            progress = f"run {number} of {len(selected)}"
            if finished_record(settings):
                print_line(f"{settings.target}: finished before, {progress}")
                continue
            print_line(f"{settings.target}: {progress}")
            self.trained.add(settings.target)
            try:
                signal_status = self._run_one(settings)
            except DiskFullError as error:  # the next run would find the disk full, too
                return report_user_error(error)
            print_test(settings)
            if signal_status:
                print_line(f"sweep stopped at {settings.target}; repeat the command to resume")
                return signal_status
        return None

    def _run_one(self, settings: Settings) -> int:
        """Run one configuration; record a failure, or skip it if another process runs it.

        Returns:
            SIGNAL_STATUS + the number of the signal that stopped it, else 0.

        Raises:
            DiskFullError: the disk is full.
        """
        restore_default_signals()  # until the run installs its handlers
        reset_peak_memory()
        signals = SignalFlag()
        failure = ""
        try:
            # A signal that came after the last check no longer stops the run; it stops the sweep
            status = self.run_one(settings, self.base_cache, signals) or signals.exit_status
            if 0 < status < SIGNAL_STATUS:
                # A run that stops by itself, as for a non-finite loss, logs the reason last
                failure = log_path(settings, "log.txt").read_text(encoding="utf-8").splitlines()[-1]
        except DiskFullError:
            raise
        except RunInUseError as error:  # mostly another shard
            print_line(f"{settings.target} running elsewhere: {error}")
            self.running_elsewhere.add(settings.target)
            status = 0
        except (ValueError, OSError) as error:  # an error of the user
            failure = str(error)
            status = 2
        except Exception as error:  # a bug: the next run may do better
            traceback.print_exc()
            failure = f"{type(error).__name__}: {error}"
            status = 1
        finally:
            restore_default_signals()
            _free_memory(settings)
        if failure:
            self.failed = True
            record_failure(settings, failure)
        return status if status > SIGNAL_STATUS else 0


def _free_memory(settings: Settings) -> None:
    """Release what a run leaves: the model, cached GPU memory and compiled code."""
    gc.collect()
    torch.cuda.empty_cache()
    if settings.compile:
        torch.compiler.reset()  # torch compiles no more than a few models per process
