"""The files that a run writes into its log folder: text log, metrics, test ranks and curves."""

import contextlib
import json
import logging
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from config_HeLLM import Settings
from utils.cli.config_file import settings_to_toml
from utils.cli.layout import LOG_WIDTH, wrap_command
from utils.cli.terminal import make_output_safe, silence_stdout
from utils.evaluation.metrics import Ranking
from utils.io.atomic import atomic_write
from utils.io.disk_full import explain_disk_full
from utils.io.kept import refuse_kept
from utils.logs.curves import plot_curves
from utils.logs.published import published_log
from utils.logs.records import EpochRecord, FinalRecord, read_metrics, to_jsonl, training_seconds
from utils.logs.result_table import input_tests, result_lines
from utils.logs.steps import StepLog

SETTINGS = "settings"  # title of all settings in a log
NON_DEFAULT_SETTINGS = "non-default settings"  # title of those that differ from the defaults
EARLIER_TITLE = "settings beside the published ones"  # NON_DEFAULT_SETTINGS in logs of earlier versions
FILES = ("log.txt", "metrics.jsonl", "steps.csv", "ranks.npz", "curves.png", "settings.toml")
EVENTS = "tensorboard"  # beside them: the folder of --tensorboard
OTHER_FOLDER = "use another --logging_dir"
FAILED = "failed.txt"  # beside them: the error of a run of a sweep that has failed


def log_folder(logging_dir: str | Path, dataset: str, name: str) -> Path:
    """Return the folder that runs of a name (a GNNModel, SASRec, …) write their logs to.

    Raises:
        ValueError: it is in log/kept.
    """
    folder = Path(logging_dir) / dataset / name
    refuse_kept(folder, OTHER_FOLDER)
    return folder


def log_path(settings: Settings, ending: str) -> Path:
    """Return the path of a fine-tuning's log file, or of a sweep's, with this ending."""
    return log_folder(settings.logging_dir, settings.dataset, settings.GNNModel) / f"{settings.target}_{ending}"


def settings_line(title: str, settings: dict) -> str:
    """Format settings as a line of the log, titled SETTINGS or NON_DEFAULT_SETTINGS."""
    return f"{title}: {json.dumps(settings)}"


def read_settings(path: Path) -> tuple[str, dict]:
    """Return title and settings of the first `settings_line` in a log; "" and {} without one.

    Raises:
        ValueError: the settings can't be read; names path and line.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = re.match(rf"\S+ \S+  ({SETTINGS}|{NON_DEFAULT_SETTINGS}|{EARLIER_TITLE}): (.*)", line)
        if match:
            title, text = match.groups()
            try:
                return NON_DEFAULT_SETTINGS if title == EARLIER_TITLE else title, dict(json.loads(text))
            except (ValueError, TypeError, RecursionError):
                what = "settings that are no JSON object; remove the line, or the file"
                raise ValueError(f"{path}: line {number}: {what}") from None
    return "", {}


class _LogFile(logging.FileHandler):
    """Append lines with the time to a file; raise errors, which logging would print."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        with contextlib.suppress(OSError):
            self.close()  # writes what is left in its buffer, which fits on the disk no more
        raise  # the error, which is being handled while logging calls this method


class _Terminal(logging.StreamHandler):
    """Print lines. A standard output that is full or that nobody reads is no error: the log file has all lines."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        silence_stdout()


class RunLog:
    """Write the files of one run: `{target}_log.txt` and those beside it, which FILES lists.

    Args:
        folder: folder of the files; it is made when the first of them is written.
        target: name of the run.
        published: "model/dataset" whose published curves, if there are any, are plotted with this run's.
        quiet: write and print nothing, as on every rank but 0.
        seed: seed of the run, for the title of its curves; None: it has none.
        is_published_loss: whether its loss is the published one, which is then plotted, too.
        tensorboard: write the steps for TensorBoard, too.

    Raises:
        ValueError: the folder is in log/kept.
    """

    def __init__(
        self,
        folder: str | Path,
        target: str,
        published: str,
        quiet: bool = False,
        seed: int | None = None,
        is_published_loss: bool = True,
        tensorboard: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.seed = seed
        self.is_published_loss = is_published_loss
        self.target = target
        self.quiet = quiet
        self.published = published_log(published)
        refuse_kept(self.folder, OTHER_FOLDER)
        make_output_safe()
        self._file = _LogFile(self._path("log.txt"))
        # Not from getLogger, which would keep the loggers of all runs of a sweep, and share those of equal names
        self._logger = logging.Logger(target)
        self._logger.addHandler(self._file)
        self._screen = logging.Logger(target)
        self._screen.addHandler(_Terminal(sys.stdout))
        self.steps = StepLog(self._path("steps.csv"), self._path(EVENTS) if tensorboard else None)

    @property
    def stem(self) -> Path:
        """The common beginning of the paths of this run's files."""
        return self.folder / self.target

    @property
    def title(self) -> str:
        """What the run is called above its curves: dataset, folder and name, seed."""
        run = f"{self.folder.name}/{self.target}"
        parts = [self.folder.parent.name, run] + ([] if self.seed is None else [f"seed {self.seed}"])
        return ", ".join(filter(None, parts))

    @property
    def metrics_path(self) -> Path:
        """The path of this run's records."""
        return self._path("metrics.jsonl")

    @property
    def paths(self) -> list[Path]:
        """The paths of all files of this run."""
        return [self._path(name) for name in (*FILES, FAILED)]

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.target}_{name}"

    def clear(self) -> None:
        """Remove the files of an earlier run of this name."""
        if self.quiet:
            return
        self.close()
        for path in self.paths:
            path.unlink(missing_ok=True)
        shutil.rmtree(self._path(EVENTS), ignore_errors=True)

    def remove_failure(self) -> None:
        """Remove the failure note of a run that is resumed."""
        if not self.quiet:
            self._path(FAILED).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the log file; `info` opens it again."""
        self._file.close()
        self.steps.close()

    def leave_screen(self) -> None:
        """Print no more: of a run of a sweep, the log has the details."""
        self._screen.disabled = True

    def info(self, text: str) -> None:
        """Add a line with the time to the log, and print it without.

        Raises:
            DiskFullError: the disk of the log is full.
        """
        self.record(text)
        self.show(text)

    def show(self, text: str) -> None:
        """Print a line, and leave it out of the log."""
        if not self.quiet:
            self._screen.info(text)

    def record(self, text: str) -> None:
        """Add a line with the time to the log alone.

        Raises:
            DiskFullError: the disk of the log is full.
        """
        if self.quiet:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path("log.txt")
        with explain_disk_full(path):
            self._logger.info(text)

    def write_settings(self, settings: object) -> None:
        """Write all settings of the run, as --config reads them."""
        if self.quiet:
            return
        header = "Settings of a run; --config FILE repeats it, with another --target beside it"
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path("settings.toml")) as temporary:
            temporary.write_text(settings_to_toml(settings, header), encoding="utf-8", errors="surrogateescape")

    def log_test(self, final: FinalRecord, with_inputs: bool = True) -> None:
        """Log a test: best epoch, speed, and the table of its metrics beside what is known of the same users.

        Args:
            final: the test.
            with_inputs: also show SASRec and MMHCL alone, where they are recorded.
        """
        chosen = "" if final.best_epoch is None else f"best epoch {final.best_epoch + 1} by {final.chosen_by}, "
        speed = f", {final.users_per_s:,.0f} users/s" if final.users_per_s else ""
        self.info(f"{chosen}tested on {final.users:,} users{speed}")
        inputs = input_tests(self.folder.parent, final.users) if with_inputs else {}
        for line in result_lines(final, inputs, self.published):
            self.info(line)
        for name, value in final.test.items():
            self.record(f"  test {name} {value:.6f}")

    def log_results(self, others: list[Path], next_command: list[str]) -> None:
        """Log where the results are, and a command that shows more of them.

        Args:
            others: files of the run in other folders.
            next_command: the words of a command line.
        """
        if self.quiet:
            return
        endings = [f"_{name}" for name in FILES if self._path(name).is_file()]
        lines = [f"{self.stem}{endings[0]}", *(f"  {ending}" for ending in endings[1:]), *map(str, others)]
        self.info("Results: " + "\n         ".join(lines))
        self.info("Next:    " + wrap_command(next_command, LOG_WIDTH - len("Next:    ")))

    def finished_record(self, epochs: list[EpochRecord]) -> FinalRecord | None:
        """Return the test of a run that has ended with these epochs; None if a file of it is missing or damaged."""
        if self.quiet or not self._path("ranks.npz").is_file():
            return None
        try:
            logged, final = read_metrics(self.metrics_path)
        except ValueError:
            return None
        return final if logged == epochs else None

    def write_metrics(self, epochs: list[EpochRecord], final: FinalRecord | None = None) -> None:
        """Write all records so far and plot their curves.

        The file is replaced as a whole, so a resumed run leaves no epoch twice.
        """
        if self.quiet:
            return
        with atomic_write(self.metrics_path) as temporary:
            temporary.write_text(to_jsonl([*epochs, final] if final else epochs), encoding="utf-8")
        if not epochs:
            return
        path = self._path("curves.png")
        try:
            png = plot_curves(self.title, epochs, final, self.published, self.is_published_loss)
        except Exception as error:  # matplotlib raises many kinds; a failed plot must not end the run
            self.info(f"{path} not plotted: {type(error).__name__}: {' '.join(str(error).split())}")
            return
        with atomic_write(path) as temporary:
            temporary.write_bytes(png)

    def write_final(self, epochs: list[EpochRecord], final: FinalRecord, ranking: Ranking | None = None) -> None:
        """Write the files of a finished run: test ranks, then all records.

        Args:
            epochs: records of all validated epochs.
            final: the test; the seconds of all training are added to it.
            ranking: test ranks of all users, written as int32 (N,) in the order of `Interactions.test`, and, where
                days are known, which targets fall on a later day, as bool (N,).
        """
        if self.quiet:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if ranking:
            arrays = {name: getattr(ranking, name).astype(np.int32) for name in ("seen_kept", "seen_removed")}
            if ranking.later_day is not None:
                arrays["later_day"] = ranking.later_day
            with atomic_write(self._path("ranks.npz")) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
        self.write_metrics(epochs, replace(final, seconds=training_seconds(epochs)))
