"""All runs of a log folder at a glance: log/report.md and log/report.html, beside what is published; any two in detail.

python -m utils.report log/
python -m utils.report --compare log/Beauty/MMHCL/best-2024 log/Beauty/baselines/item-kNN
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.lib.format as npy

from config_HeLLM import IGNORED_ON_RESUME
from utils.evaluation.bootstrap import intervals
from utils.evaluation.metrics import ranking_metrics
from utils.logs.records import HEADLINE_METRICS, SELECTION_METRIC, EpochRecord, FinalRecord, read_metrics
from utils.logs.run_log import FILES, NON_DEFAULT_SETTINGS, read_settings
from utils.report.page import MetricValue

BASELINES = "baselines"  # the folder of utils.baselines
PROTOCOLS = {"test": "seen_kept", "test_unseen": "seen_removed"}  # in the metrics, in the ranks
HIDDEN_SETTINGS = (IGNORED_ON_RESUME - {"batch_size", "grad_steps", "data_dir"}) | {"dataset", "GNNModel", "target"}


@dataclass
class Run:
    """What one run has left; `path` is that of its files without `_metrics.jsonl` and the like."""

    path: Path
    dataset: str
    epochs: list[EpochRecord]
    last: FinalRecord | None  # the record with the test; None before it
    fine_tuning: bool  # a run of HeLLM: whose settings stand beside the published ones
    settings: dict  # as recorded: of fine-tuning those that differ, else all
    tests: dict[str, dict[str, MetricValue]]  # protocol to metrics
    ranks: dict[str, np.ndarray]  # of all tested users, as in `read_ranks`

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def validation(self) -> dict[str, float]:
        """Metrics of the best epoch, of the last one before there is a best."""
        if self.last is None:
            return self.epochs[-1].val if self.epochs else {}
        best = [record.val for record in self.epochs if record.epoch == self.last.best_epoch]
        return (best or [record.val for record in self.epochs[-1:]] or [self.last.val or {}])[0]


def read_ranks(path: Path, last: FinalRecord) -> dict[str, np.ndarray]:
    """Test ranks `seen_kept` and `seen_removed` of all users, int (N,); empty where there is no such file.

    Args:
        last: the record with the test.

    Raises:
        ValueError: no file of ranks, or not those that the recorded test is of.
    """
    if not path.is_file():
        return {}
    ranks, users = {}, last.users
    try:
        with zipfile.ZipFile(path) as file:
            for name in PROTOCOLS.values():
                if _are_whole(file, f"{name}.npy", users):
                    with file.open(f"{name}.npy") as member:
                        ranks[name] = npy.read_array(member).astype(np.int64)
    except Exception as error:  # many kinds for a damaged file
        raise ValueError(f"{path}: cut short or no file of ranks; remove it, or run again") from error
    for protocol, name in PROTOCOLS.items():
        recorded, possible = getattr(last, protocol) or {}, name in ranks and ranks[name].min() > 0
        if not possible or not all(
            abs(recorded.get(metric, np.nan) - value) < 1e-9 for metric, value in ranking_metrics(ranks[name]).items()
        ):
            raise ValueError(f"{path}: not the ranks of the {users:,} users in the metrics beside it; run again")
    return ranks


def _are_whole(file: zipfile.ZipFile, name: str, users: int) -> bool:
    """Whether an array in an .npz file is of whole numbers, one a user; all that is read is its head."""
    with file.open(name) as member:
        if npy.read_magic(member) != (1, 0):  # others may have heads of any length
            return False
        shape, _, dtype = npy.read_array_header_1_0(member)
    return users > 0 and shape == (users,) and dtype.kind in "iu"


def run_file(run: Path, kind: str) -> Path:
    return run.with_name(f"{run.name}_{kind}")


def read_run(path: Path) -> Run:
    """A run of which any file is there.

    Args:
        path: without `_metrics.jsonl` and the like.

    Raises:
        ValueError: naming the file, and the line, that can't be read.
    """
    metrics_file, log = run_file(path, "metrics.jsonl"), run_file(path, "log.txt")
    epochs, last = read_metrics(metrics_file)
    title, settings = "", last.settings if last else None
    if settings is None:
        title, settings = read_settings(log) if log.is_file() else ("", {})
    fine_tuning = last is not None and last.popularity is not None or title == NON_DEFAULT_SETTINGS
    ranks = read_ranks(run_file(path, "ranks.npz"), last) if last else {}
    tests = {}
    for protocol, of_ranks in PROTOCOLS.items():
        metrics = getattr(last, protocol, None)
        if metrics:
            ends = intervals(ranks[of_ranks]) if ranks else {}
            tests[protocol] = {name: MetricValue(metrics[name], *ends.get(name, ())) for name in HEADLINE_METRICS}
    return Run(path, path.parent.parent.name, epochs, last, fine_tuning, settings, tests, ranks)


def find_runs(folder: Path) -> list[Run]:
    """All runs below a log folder, the best by validation first, those without a test last.

    Raises:
        FileNotFoundError: no run.
    """
    files = [path for kind in FILES[:2] for path in folder.glob(f"*/*/*_{kind}")]
    paths = sorted({path.with_name(re.sub("_(log.txt|metrics.jsonl)$", "", path.name)) for path in files})
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no run; {folder}/DATASET/GNNMODEL/TARGET_metrics.jsonl is what a run leaves"
        )
    runs = [read_run(path) for path in paths]
    return sorted(runs, key=lambda run: (not run.last, -run.validation.get(SELECTION_METRIC, 0)))
