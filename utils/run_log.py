"""What a run leaves to read: a log, one JSON object an epoch, and a picture of the curves."""

import json
import time
from pathlib import Path

from utils.files import replacing
from utils.metrics import summary

PUBLISHED = Path(__file__).parents[1] / "log" / "published.json"  # what the released logs say, by program/dataset
SHOWN = ("Recall@10", "NDCG@10", "Recall@20", "NDCG@20")


class RunLog:
    """Writes `{target}_log.txt`, `{target}_metrics.jsonl` and `{target}_curves.png` of one run.

    Args:
        folder: where they go; made when absent.
        target: name of the run.
        published: program/dataset whose published curves, where there are any, are drawn behind this run's.
        quiet: write nothing (every process but the first).
    """

    def __init__(self, folder: str | Path, target: str, published: str, quiet: bool = False) -> None:
        self.folder, self.target, self.quiet = Path(folder), target, quiet
        self.published = json.loads(PUBLISHED.read_text()).get(published, {}) if PUBLISHED.is_file() else {}

    def clear(self) -> None:
        """Remove what an earlier run of this name left; a resumed run adds to it instead."""
        if not self.quiet:
            for name in ("log.txt", "metrics.jsonl", "curves.png"):
                self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.target}_{name}"

    def say(self, text: str) -> None:
        """Print a line and add it, with the time, to the log."""
        if self.quiet:
            return
        print(text, flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._path("log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

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
        for name, value in record["test"].items():
            self.say(f"  test {name} {value:.6f}")

    def write(self, records: list[dict]) -> None:
        """Write all records so far, one JSON object a line, and draw the curves of the epochs among them.

        The whole file is replaced at once, so a resumed run leaves no epoch twice.
        """
        if self.quiet:
            return
        with replacing(self._path("metrics.jsonl")) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        epochs = [record for record in records if "epoch" in record]
        if epochs:
            self._draw(epochs)

    def _draw(self, epochs: list[dict]) -> None:
        from matplotlib.figure import Figure  # slow to import, and not needed by every process

        figure = Figure(figsize=(9, 3.5), layout="constrained")
        loss, quality = figure.subplots(1, 2)
        number = [record["epoch"] for record in epochs]
        for axes, names in ((loss, ("train_loss",)), (quality, SHOWN)):
            for color, name in enumerate(names):
                ours = [{**record, **record["val"]}[name] for record in epochs]
                axes.plot(number, ours, f"C{color}o-", markersize=3, label=name)
                if self.published:
                    axes.plot(self.published["epoch"], self.published[name], f"C{color}:", linewidth=1)
        loss.set(xlabel="epoch", ylabel="training loss (nats)", title=self.target)
        title = f"validation (dotted: published {self.published['split']})" if self.published else "validation"
        quality.set(xlabel="epoch", title=title, ylim=(0, None))
        quality.legend(frameon=False)
        for axes in (loss, quality):
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
        with replacing(self._path("curves.png")) as temporary:
            figure.savefig(temporary, dpi=120, format="png")
