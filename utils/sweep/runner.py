"""Many runs by one command: every combination of some values, or the paper's ablations.

    python train_HeLLM.py --preset best --sweep lr=1e-3,3e-3 dropout=0.2,0.3 [--sweep_shard 1/4]
    python train_HeLLM.py --preset tiny --sweep ablation

Each run is what it would be alone, under a `target` that says what differs. The same command goes on where it ended:
finished runs are passed over, the others go on from their states. A run that fails is listed, and the next one starts.
"""

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Callable

import torch

from config_HeLLM import SWEEP, Settings, parse_args, run_fingerprint
from preprocess.demo_data import ensure_demo_data
from utils.cli.flags import Parser
from utils.cli.restored import diff_settings, restore_settings
from utils.cli.terminal import print_line
from utils.data.input_files import input_checksums
from utils.data.layout import require_files, required_files
from utils.io.atomic import atomic_write
from utils.io.disk_full import DiskFullError
from utils.logs.records import HEADLINE_METRICS, SELECTION_METRIC, read_metrics
from utils.logs.run_log import FAILED, log_path
from utils.planning import plan
from utils.report.page import Table, table_to_markdown
from utils.runtime.distributed import resolve_device
from utils.runtime.lock import RunInUseError
from utils.runtime.memory import reset_peak_memory
from utils.runtime.signals import restore_default_signals
from utils.sweep.ablation import ablation_rows
from utils.sweep.grid import ABLATION, FIELD_TYPES, SweepRun, grid_rows, parse_grid
from utils.training.build import build_meta_model, load_data


def parse_sweep(argv: list[str] | None = None) -> "Sweep | None":
    """The sweep that a command line, or else SWEEP, asks for; None where it is a single run.

    A mistake ends the program with one line and exit status 2.
    """
    parser = Parser(prog="train_HeLLM.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--sweep", nargs="+", action="extend")
    parser.add_argument("--sweep_shard")
    given, rest = parser.parse_known_args(argv)
    if not (given.sweep or SWEEP or given.sweep_shard):
        return None
    try:
        if not (given.sweep or SWEEP):
            raise ValueError("--sweep_shard without --sweep: there is nothing to divide")
        shard = _parse_shard(given.sweep_shard or "1/1")
        if given.sweep == [ABLATION]:
            return Sweep(parse_args(rest), None, shard, ABLATION)
        grid = parse_grid(given.sweep) if given.sweep else SWEEP
        return Sweep(parse_args(rest), grid_rows(rest, grid), shard, "-".join(["sweep", *grid]))
    except ValueError as mistake:
        parser.error(str(mistake))


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--sweep_shard {text}: NUMBER/COUNT, from 1/COUNT to COUNT/COUNT")
    return int(number), int(count)


def finished_record(settings: Settings) -> dict:
    """The last record of a finished run, with its best validation as `val`; empty before that.

    Raises:
        ValueError: the metrics file can't be read, or is of other settings or data files.
        FileNotFoundError: a data file is missing.
    """
    path = log_path(settings, "metrics.jsonl")
    epochs, last = read_metrics(path)
    if last is None:
        return {}
    recorded = last.settings or {}
    others = {name: value for name, value in recorded.items() if name not in FIELD_TYPES}  # of another version
    differ = diff_settings(
        others | run_fingerprint(restore_settings(Settings, recorded, path)), run_fingerprint(settings)
    )
    if files := last.files:
        names = required_files(settings.dataset, settings.GNNModel)
        folder = require_files(settings.data_dir, settings.dataset, names)
        differ += diff_settings(files, input_checksums(map(folder.joinpath, names)))
    if differ:
        raise ValueError(
            f"{path}: finished under other settings or data: {'; '.join(differ)}; use the same ones or another --target"
        )
    best = [record.val for record in epochs if record.epoch == last.best_epoch]
    if not best:
        raise ValueError(f"{path}: no record of the best epoch, {last.best_epoch}; remove it, and it runs again")
    return {"val": best[0]} | last.to_json()


def validate_all(rows: list[SweepRun]) -> None:
    """Look at all runs before the first starts.

    Raises:
        ValueError: everything that is wrong with them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--sweep: runs in one process; without torchrun, --sweep_shard gives each machine its part")
    problems = {}
    for settings in (row.settings for row in rows if row.settings):
        try:
            if not finished_record(settings):
                build_meta_model(settings, load_data(settings)[1], resolve_device(settings.device))
        except (ValueError, OSError) as mistake:
            problems.setdefault(str(mistake), settings.target)
    if problems:
        raise ValueError("; ".join(f"{target}: {problem}" for problem, target in problems.items()))


class Sweep:
    """The runs of one command.

    Args:
        base: the settings without what is swept; its target is the beginning of all others.
        rows: the runs; None: the paper's ablations, which depend on files.
        shard: which part of the runs is this program's, number and count.
        kind: ABLATION, or what tells the grid's table from those of others of the same target.
    """

    def __init__(self, base: Settings, rows: list[SweepRun] | None, shard: tuple[int, int], kind: str) -> None:
        self.base, self.rows, self.shard, self.kind = base, rows, shard, kind
        self.failed = False  # whether one of this program's part has
        self.elsewhere: set[str] = set()  # targets that other processes run

    @property
    def own(self) -> list[Settings]:
        """This program's part of the runs; rows without a run count, so that it stays when they get one."""
        number, count = self.shard
        return [row.settings for row in self.rows[number - 1 :: count] if row.settings]

    def run(self, prepare: Callable, carry_out: Callable) -> int:
        """Run this program's part of the runs that are not finished, and show all; returns the exit status.

        Args:
            prepare: (settings, shared) to a trainer; carry_out: trainer to exit status. As in train_HeLLM.

        Raises:
            ValueError, OSError: a mistake, before the first run.
        """
        ensure_demo_data(self.base)
        if self.rows is None:
            self.rows = ablation_rows(self.base)
        if self.base.plan:
            for one in self.own:
                print(one.target)
                plan.print_plan(one)
            return 0
        validate_all(self.rows)
        own, shared = self.own, {}
        for place, one in enumerate(own, 1):
            if finished_record(one):
                print_line(f"{one.target}: finished before, run {place} of {len(own)}")
                continue
            print_line(f"{one.target}: run {place} of {len(own)}")
            try:
                status = self._run_one(one, prepare, carry_out, shared)
            except DiskFullError as full:  # nor would the next one have room
                print(f"error: {full}; make room, and the same command goes on", file=sys.stderr)
                return 1
            if status:
                print_line(f"the sweep ends at {one.target}; the same command goes on")
                return status
        self._show()
        return 1 if self.failed else 0

    def _run_one(self, settings: Settings, prepare: Callable, carry_out: Callable, shared: dict) -> int:
        """One run, noted if it fails or another process has it; returns the exit status of a signal, 0 without."""
        begun = False
        restore_default_signals()  # until the trainer listens
        reset_peak_memory()
        try:
            trainer = prepare(settings, shared)
            with trainer.states.begun(resume=True) as trainer.progress:
                begun = True
                status = carry_out(trainer) or trainer.signals.number and 128 + trainer.signals.number
            if 0 < status < 128:
                self._fail(settings, log_path(settings, "log.txt").read_text().splitlines()[-1])
        except DiskFullError:
            raise
        except RunInUseError as held:  # by another shard, mostly
            print_line(f"{settings.target} running elsewhere: {held}")
            self.elsewhere.add(settings.target)
            status = 0
        except Exception as error:  # of this run alone: the next one may do better
            what = str(error)
            if begun or not isinstance(error, (ValueError, OSError)):  # no mistake of the user's
                traceback.print_exc()
                what = f"{type(error).__name__}: {error}"
            print_line(f"{settings.target} failed: {what}")
            self._fail(settings, what)
            status = 1
        finally:
            restore_default_signals()
            trainer = None  # lets go of its memory
            gc.collect()
            torch.cuda.empty_cache()
            if settings.compile:
                torch.compiler.reset()  # it stops compiling after so many models
        return status if status > 128 else 0

    def _fail(self, settings: Settings, what: str) -> None:
        """Keep why a run has failed beside its log, where the tables of all shards find it."""
        self.failed, path = True, log_path(settings, FAILED)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(" ".join(what.split()) + "\n", encoding="utf-8")

    def _failures(self) -> dict[str, str]:
        """Target to error of the runs of all shards that have failed."""
        failures = {}
        for settings in (row.settings for row in self.rows if row.settings):
            with contextlib.suppress(FileNotFoundError):
                failures[settings.target] = log_path(settings, FAILED).read_text(encoding="utf-8").strip()
        return failures

    def _table(self, failures: dict[str, str]) -> Table:
        """All runs: of a grid the best by validation first, of the ablations in the paper's form."""
        found = [(row, finished_record(row.settings) if row.settings else {}) for row in self.rows]
        ablation = self.kind == ABLATION
        header = [f"{self.base.dataset}, test"] if ablation else ["run", "best epoch", f"validation {SELECTION_METRIC}"]
        header += HEADLINE_METRICS if ablation else [f"test {name}" for name in HEADLINE_METRICS]
        if not ablation:
            found.sort(key=lambda pair: -pair[1]["val"][SELECTION_METRIC] if pair[1] else 1)
        lines = []
        for row, record in found:
            if not record:
                lines.append([f"{row.title} ({self._state(row, failures)})", *[""] * (len(header) - 1)])
                continue
            cells = [] if ablation else [str(record["best_epoch"]), f"{record['val'][SELECTION_METRIC]:.4f}"]
            lines.append([row.title, *cells, *(f"{record['test'][name]:.4f}" for name in HEADLINE_METRICS)])
        return Table("", header, lines)

    def _state(self, row: SweepRun, failures: dict[str, str]) -> str:
        """Why a row has no figures, in a few words."""
        if row.why:
            return row.why
        if row.settings.target in self.elsewhere:
            return "running elsewhere"
        return "failed" if row.settings.target in failures else "not finished"

    def _show(self) -> None:
        """Print the table, and what is wrong with the runs that are not in it, and write them beside the logs."""
        failures = self._failures()
        notes = [f"{target} failed: {error}" for target, error in failures.items()]
        notes += [f"{row.title}: {row.remedy}" for row in self.rows if row.remedy]
        text = "\n* ".join([table_to_markdown(self._table(failures)), *notes])
        path = log_path(self.base, f"{self.kind}.md")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text + "\n" * bool(notes), encoding="utf-8")
        print_line(f"{text}\nwritten: {path}")
