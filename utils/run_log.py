"""What a run leaves to read: a log, one JSON object an epoch, and a picture of the curves."""

import io
import json
import re
import time
from pathlib import Path

import numpy as np

from config_HeLLM import Settings
from llama.files import told_when_full
from utils.evaluate import Ranking
from utils.files import replacing
from utils.metrics import summary
from utils.terminal import prepare_output, show

PUBLISHED = Path(__file__).parents[1] / "log" / "published.json"  # what the released logs say, by program/dataset
SHOWN = ("Recall@10", "NDCG@10", "Recall@20", "NDCG@20")
CHOOSE_BY = "NDCG@10"  # of validation: decides which epoch is tested, and which run is the best
SETTINGS, BESIDE_PUBLISHED = "settings", "settings beside the published ones"  # what the log calls them
FILES = ("log.txt", "metrics.jsonl", "ranks.npz", "curves.png")
WHOLE, NUMBER, OBJECT, METRICS = "a whole number", "a number", "an object", f"numbers for {', '.join(SHOWN)}"
KINDS = {"epoch": WHOLE, "seconds": NUMBER, "samples_per_s": NUMBER, "val": METRICS}  # of what is read of a record
KINDS |= {"test": METRICS, "test_unseen": METRICS, "users": WHOLE, "best_epoch": WHOLE, "peak_memory_bytes": WHOLE}
KINDS |= {"settings": OBJECT, "files": OBJECT}
OF_EPOCH, OF_TEST = ("epoch", "seconds", "samples_per_s", "val"), ("test", "users")  # in all versions
FAILED = "failed.txt"  # beside them: why a run of a sweep has ended without a test


def log_folder(logging_dir: str | Path, dataset: str, name: str) -> Path:
    """Where the runs of this name (a GNNModel, SASRec, …) write what they leave to read."""
    return Path(logging_dir) / dataset / name


def log_path(settings: Settings, ending: str) -> Path:
    """Where a fine-tuning, or a sweep of this target, writes the file with this ending."""
    return log_folder(settings.logging_dir, settings.dataset, settings.GNNModel) / f"{settings.target}_{ending}"


def published_log(name: str) -> dict:
    """What the released log of program/dataset says, value lists by epoch; empty where there is none."""
    return json.loads(PUBLISHED.read_text()).get(name, {}) if PUBLISHED.is_file() else {}


def published_tests(published: dict) -> dict[str, dict[str, float]]:
    """The published test figures that ours are put beside, by what they are, from `published_log`.

    Of a log with test metrics in every epoch the one with the best Recall@20 of them, first, and the last.
    """
    if "test" in published:
        return {"test": published["test"]}
    if published.get("split") != "test":
        return {}
    best = int(np.argmax(published["Recall@20"]))
    places = {f"best epoch on test ({published['epoch'][best]})": best, f"last epoch ({published['epoch'][-1]})": -1}
    return {title: {name: published[name][place] for name in SHOWN} for title, place in places.items()}


def read_records(path: Path) -> list[dict]:
    """The records of a metrics file.

    Raises:
        ValueError: naming path and line of what is none.
    """
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} is no JSON object; remove it, or the file")
        check_record(path, number, record)
        records.append(record)
    return records


def check_record(path: Path, line: int, record: dict) -> None:
    """See that what is read of a record is there, and of its kind.

    Raises:
        ValueError: naming path, line and key.
    """
    needed = OF_EPOCH * ("epoch" in record) + OF_TEST * ("test" in record)
    if not needed:
        raise ValueError(f"{path}: line {line}: neither epoch nor test; remove the line, or the file")
    for key, kind in KINDS.items():
        if key in needed and key not in record or key in record and not _is(kind, record[key]):
            found = f"is {repr(record[key])[:40]}" if key in record else "is missing"
            raise ValueError(f"{path}: line {line}: {key} {found}; give it {kind}, or remove the file")


def _is(kind: str, value: object) -> bool:
    if kind == METRICS:
        return _is(OBJECT, value) and value.keys() >= set(SHOWN) and all(_is(NUMBER, v) for v in value.values())
    if kind == OBJECT:
        return isinstance(value, dict)
    return type(value) in ((int,) if kind == WHOLE else (int, float)) and 0 <= value < 2**53


def settings_line(title: str, settings: dict) -> str:
    """What a log says of settings, which are all (SETTINGS) or those that differ (BESIDE_PUBLISHED)."""
    return f"{title}: {json.dumps(settings)}"


def read_settings(path: Path) -> tuple[str, dict]:
    """Title and settings of the first `settings_line` in a log; "" and none without any.

    Raises:
        ValueError: naming path and line of one that can't be read.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        said = re.match(rf"\S+ \S+  ({SETTINGS}|{BESIDE_PUBLISHED}): (.*)", line)
        if said:
            try:
                return said[1], dict(json.loads(said[2]))
            except (ValueError, TypeError, RecursionError):
                what = "settings that are no JSON object; remove the line, or the file"
                raise ValueError(f"{path}: line {number}: {what}") from None
    return "", {}


def training_seconds(epochs: list[dict]) -> float:
    """Seconds of training in all; a record holds those of an epoch, and stands for all since the record before."""
    numbers = [-1, *(record["epoch"] for record in epochs)]
    return sum(record["seconds"] * n for record, n in zip(epochs, np.diff(numbers).tolist(), strict=True))


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
        prepare_output()

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

    def say(self, text: str) -> None:
        """Add a line, with the time, to the log, and print it."""
        if self.quiet:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path("log.txt")
        with told_when_full(path, path), path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")
        show(text)

    def say_test(self, record: dict) -> None:
        """Tell the last record of a run: best epoch, speed, every test metric, the popularity baseline."""
        speed = f"{record['users_per_s']:.0f} users/s"
        self.say(f"best epoch {record['best_epoch']}, tested on {record['users']:,} users, {speed}")
        for name, title in (
            ("test", "test (all items ranked)"),
            ("test_unseen", "test (history removed)"),
            ("popularity", "popularity baseline"),
        ):
            self.say(f"{title:<24} {summary(record[name])}")
        self.say_published()
        for name, value in record["test"].items():
            self.say(f"  test {name} {value:.6f}")

    def say_published(self) -> None:
        """Tell the published test figures, if there are any, a line each."""
        for title, values in published_tests(self.published).items():
            self.say(f"published {title}: {summary(values)}")

    def finish(self, epochs: list[dict], last: dict, ranking: Ranking | None = None) -> None:
        """Write a finished run: the test ranks of all users, then `epochs` and `last` with the training's seconds.

        The ranks, `seen_kept` and `seen_removed`, are int32 (N,), in the order of `Interactions.test`: ascending users.
        """
        if self.quiet:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if ranking:
            both = {name: getattr(ranking, name).astype(np.int32) for name in ("seen_kept", "seen_removed")}
            with replacing(self._path("ranks.npz")) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **both)
        self.write([*epochs, last | {"seconds": training_seconds(epochs)}])

    def write(self, records: list[dict]) -> None:
        """Write all records so far, one JSON object a line, and draw the curves of the epochs among them.

        The whole file is replaced at once, so a resumed run leaves no epoch twice.
        """
        if self.quiet:
            return
        with replacing(self._path("metrics.jsonl")) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        epochs = [record for record in records if "epoch" in record]
        if not epochs:
            return
        path, picture = self._path("curves.png"), io.BytesIO()
        try:
            self._draw(epochs, records[-1], picture)
        except Exception as error:  # of many kinds, none of them worth a run
            self.say(f"{path} not drawn: {type(error).__name__}: {' '.join(str(error).split())}")
            return
        with replacing(path) as temporary:
            temporary.write_bytes(picture.getvalue())

    def _draw(self, epochs: list[dict], last: dict, picture: io.BytesIO) -> None:
        from matplotlib.figure import Figure  # slow to import, and not needed by every process

        figure = Figure(figsize=(9, 3.5))
        # Fixed margins take half the time that a layout computed for each picture takes
        figure.subplots_adjust(left=0.09, right=0.985, bottom=0.13, top=0.92, wspace=0.15)
        loss, quality = figure.subplots(1, 2)
        number = [record["epoch"] for record in epochs]
        for axes, names in ((loss, ("train_loss",)), (quality, SHOWN)):
            for color, name in enumerate(names):
                ours = [{**record, **record["val"]}[name] for record in epochs]
                axes.plot(number, ours, f"C{color}o-", markersize=3, label=name)
                if self.published:
                    axes.plot(self.published["epoch"], self.published[name], f"C{color}:", linewidth=1)
                if name in last.get("test", {}):
                    axes.plot(last["best_epoch"], last["test"][name], f"C{color}D", markeredgecolor="k")
        loss.set(xlabel="epoch", ylabel="training loss (nats)")
        loss.set_title(self.target, fontsize="medium", parse_math=False)
        title = "validation" + ", diamonds: test" * ("test" in last)
        if self.published:
            title += f", dotted: published {self.published['split']}"
        quality.set(xlabel="epoch", ylim=(0, None))
        quality.set_title(title, fontsize="medium")
        quality.legend(frameon=False)
        for axes in (loss, quality):
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.savefig(picture, dpi=120, format="png")
