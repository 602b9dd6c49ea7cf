"""The files of a run's folder, and what an earlier run of the same name has left there and in the log."""

import time
from dataclasses import dataclass
from pathlib import Path

from utils.logs.records import read_metrics

# Files in a run's folder
STATE = "training_state.pt"
PREVIOUS_STATE = "training_state_before.pt"
BEST_ADAPTER = "best_adapter.pt"
COMMITTEE_FILE = "committee.json"  # instead of the others, in the folder of a committee


def run_folder(output_dir: str | Path, dataset: str, GNNModel: str, target: str) -> Path:
    """Return the folder of a run's best adapter and checkpoints."""
    return Path(output_dir) / dataset / GNNModel / target


@dataclass(frozen=True)
class RunFiles:
    """The paths of what a run leaves that took time to make."""

    folder: Path  # of its checkpoints
    best: Path  # the model of its best epoch
    metrics: Path  # its records

    @property
    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to resume from."""
        return any((self.folder / name).is_file() for name in (STATE, PREVIOUS_STATE))

    def describe(self) -> str:
        """Return in words what a run has left, "" if nothing would be lost.

        Raises:
            ValueError: the records can't be read; names file and line.
        """
        epochs, final = read_metrics(self.metrics)
        if final:
            score = f"{final.test['NDCG@10']:.4f}".removeprefix("0")
            return f"finished run of {_date(self.metrics)}, test NDCG@10 {score} ({self.metrics})"
        files = [path for path in (self.folder / STATE, self.folder / PREVIOUS_STATE, self.best) if path.is_file()]
        if not files:
            return ""
        n_epochs = f"{len(epochs)} epoch{'' if len(epochs) == 1 else 's'} validated"
        return f"interrupted run of {_date(files[0])}, {n_epochs} ({self.folder})"

    def refuse_replacing(self) -> None:
        """Keep a new run from replacing an earlier one of its name.

        Raises:
            ValueError: there is one; says what it is, and the flags that resume, replace or keep it.
        """
        found = self.describe()
        if not found:
            return
        resumes, replaces = ("shows it", "replaces it") if found.startswith("finished") else ("goes on", "starts over")
        resume = f"--resume {resumes}, " if self.has_checkpoint else ""
        raise ValueError(f"{found}: {resume}--overwrite {replaces}, --target NAME keeps both")

    def refuse_committee(self) -> None:
        """Keep a run out of the folder of a committee.

        Raises:
            ValueError: there is one.
        """
        path = self.folder / COMMITTEE_FILE
        if path.exists():
            raise ValueError(f"{path}: a committee of utils.ensemble has this name; use another --target")


def _date(path: Path) -> str:
    """Return the day on which a file was written: 26 Nov 2026."""
    written = time.localtime(path.stat().st_mtime)
    return f"{written.tm_mday} {time.strftime('%b %Y', written)}"
