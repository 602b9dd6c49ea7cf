"""What a run leaves to read: a log, one JSON object an epoch, and a picture of the curves."""

import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from config_HeLLM import Settings
from utils.cli.terminal import make_output_safe, print_line
from utils.evaluation.metrics import format_headline_metrics
from utils.evaluation.ranking import Ranking
from utils.io.atomic import atomic_write
from utils.io.disk_full import explain_disk_full
from utils.logs.published import published_log, published_tests
from utils.logs.records import HEADLINE_METRICS, EpochRecord, FinalRecord, to_jsonl, training_seconds

SETTINGS, NON_DEFAULT_SETTINGS = "settings", "settings beside the published ones"  # what the log calls them
FILES = ("log.txt", "metrics.jsonl", "ranks.npz", "curves.png")
FAILED = "failed.txt"  # beside them: why a run of a sweep has ended without a test


def log_folder(logging_dir: str | Path, dataset: str, name: str) -> Path:
    """Where the runs of this name (a GNNModel, SASRec, …) write what they leave to read."""
    return Path(logging_dir) / dataset / name


def log_path(settings: Settings, ending: str) -> Path:
    """Where a fine-tuning, or a sweep of this target, writes the file with this ending."""
    return log_folder(settings.logging_dir, settings.dataset, settings.GNNModel) / f"{settings.target}_{ending}"


def settings_line(title: str, settings: dict) -> str:
    """What a log says of settings, which are all (SETTINGS) or those that differ (BESIDE_PUBLISHED)."""
    return f"{title}: {json.dumps(settings)}"


def read_settings(path: Path) -> tuple[str, dict]:
    """Title and settings of the first `settings_line` in a log; "" and none without any.

    Raises:
        ValueError: naming path and line of one that can't be read.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        said = re.match(rf"\S+ \S+  ({SETTINGS}|{NON_DEFAULT_SETTINGS}): (.*)", line)
        if said:
            try:
                return said[1], dict(json.loads(said[2]))
            except (ValueError, TypeError, RecursionError):
                what = "settings that are no JSON object; remove the line, or the file"
                raise ValueError(f"{path}: line {number}: {what}") from None
    return "", {}


class RunLog:
    """Writes `{target}_log.txt`, `_metrics.jsonl`, `_curves.png` and, of a test, `_ranks.npz` of one run.

    Args:
        folder: where they go; made when absent.
        target: name of the run.
        published: program/dataset whose published curves, where there are any, are drawn behind this run's.
        quiet: write nothing (every process but the first).
    """

    def __init__(self, folder: str | Path, target: str, published: str, quiet: bool = False) -> None:
        self.folder, self.target, self.quiet = Path(folder), target, quiet
        self.published = published_log(published)
        make_output_safe()

    @property
    def stem(self) -> Path:
        """What the paths of all files of this run begin with."""
        return self.folder / self.target

    @property
    def paths(self) -> list[Path]:
        """Of all files of this run."""
        return [self._path(name) for name in (*FILES, FAILED)]

    def clear(self, resumed: bool = False) -> None:
        """Remove what an earlier run of this name left; a resumed run adds to it instead, but to why it failed."""
        if not self.quiet:
            for name in (FAILED,) if resumed else (*FILES, FAILED):
                self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.target}_{name}"

    def info(self, text: str) -> None:
        """Add a line, with the time, to the log, and print it."""
        if self.quiet:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path("log.txt")
        with explain_disk_full(path, path), path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")
        print_line(text)

    def log_test(self, record: FinalRecord) -> None:
        """Tell the last record of a run: best epoch, speed, every test metric, the popularity baseline."""
        speed = f"{record.users_per_s:.0f} users/s"
        self.info(f"best epoch {record.best_epoch}, tested on {record.users:,} users, {speed}")
        for name, title in (
            ("test", "test (all items ranked)"),
            ("test_unseen", "test (history removed)"),
            ("popularity", "popularity baseline"),
        ):
            self.info(f"{title:<24} {format_headline_metrics(getattr(record, name))}")
        self.log_published()
        for name, value in record.test.items():
            self.info(f"  test {name} {value:.6f}")

    def log_published(self) -> None:
        """Tell the published test figures, if there are any, a line each."""
        for title, values in published_tests(self.published).items():
            self.info(f"published {title}: {format_headline_metrics(values)}")

    def write_final(self, epochs: list[EpochRecord], final: FinalRecord, ranking: Ranking | None = None) -> None:
        """Write a finished run: the test ranks of all users, then `epochs` and `final` with the training's seconds.

        The ranks, `seen_kept` and `seen_removed`, are int32 (N,), in the order of `Interactions.test`: ascending users.
        """
        if self.quiet:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if ranking:
            both = {name: getattr(ranking, name).astype(np.int32) for name in ("seen_kept", "seen_removed")}
            with atomic_write(self._path("ranks.npz")) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **both)
        self.write_metrics(epochs, replace(final, seconds=training_seconds(epochs)))

    def write_metrics(self, epochs: list[EpochRecord], final: FinalRecord | None = None) -> None:
        """Write all records so far, one JSON object a line, and draw the curves of the epochs among them.

        The whole file is replaced at once, so a resumed run leaves no epoch twice.
        """
        if self.quiet:
            return
        with atomic_write(self._path("metrics.jsonl")) as temporary:
            temporary.write_text(to_jsonl([*epochs, final] if final else epochs), encoding="utf-8")
        if not epochs:
            return
        path, picture = self._path("curves.png"), io.BytesIO()
        try:
            self._draw(epochs, final, picture)
        except Exception as error:  # of many kinds, none of them worth a run
            self.info(f"{path} not drawn: {type(error).__name__}: {' '.join(str(error).split())}")
            return
        with atomic_write(path) as temporary:
            temporary.write_bytes(picture.getvalue())

    def _draw(self, epochs: list[EpochRecord], final: FinalRecord | None, picture: io.BytesIO) -> None:
        from matplotlib.figure import Figure  # slow to import, and not needed by every process

        figure = Figure(figsize=(9, 3.5))
        # Fixed margins take half the time that a layout computed for each picture takes
        figure.subplots_adjust(left=0.09, right=0.985, bottom=0.13, top=0.92, wspace=0.15)
        loss, quality = figure.subplots(1, 2)
        number = [record.epoch for record in epochs]
        for axes, names in ((loss, ("train_loss",)), (quality, HEADLINE_METRICS)):
            for color, name in enumerate(names):
                ours = [{"train_loss": record.train_loss, **record.val}[name] for record in epochs]
                axes.plot(number, ours, f"C{color}o-", markersize=3, label=name)
                if self.published:
                    axes.plot(self.published["epoch"], self.published[name], f"C{color}:", linewidth=1)
                if final and name in final.test:
                    axes.plot(final.best_epoch, final.test[name], f"C{color}D", markeredgecolor="k")
        loss.set(xlabel="epoch", ylabel="training loss (nats)")
        loss.set_title(self.target, fontsize="medium", parse_math=False)
        title = "validation" + ", diamonds: test" * bool(final)
        if self.published:
            title += f", dotted: published {self.published['split']}"
        quality.set(xlabel="epoch", ylim=(0, None))
        quality.set_title(title, fontsize="medium")
        quality.legend(frameon=False)
        for axes in (loss, quality):
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.savefig(picture, dpi=120, format="png")
