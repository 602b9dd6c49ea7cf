"""Find the runs of a log folder and read their files."""

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.lib.format as npy

from utils.evaluation.bootstrap import intervals
from utils.evaluation.metrics import HEADLINE_METRICS, Ranking, ranking_metrics
from utils.logs.published import KEPT
from utils.logs.records import SELECTION_METRIC, EpochRecord, FinalRecord, Metrics, read_metrics
from utils.logs.run_log import FILES, NON_DEFAULT_SETTINGS, read_settings
from utils.report.page import MetricValue

BASELINES = "baselines"  # the folder of utils.baselines
# Tests by their name in a record. By day, where days are known: users whose target falls on a later, or on the same day
# as the last item of their history
TESTS = {
    "test": "seen kept",
    "test_unseen": "seen removed",
    "test_later_day": "later day, seen kept",
    "test_later_day_unseen": "later day, seen removed",
    "test_same_day": "same day, seen kept",
    "test_same_day_unseen": "same day, seen removed",
}
RANK_KINDS = {"seen_kept": "iu", "seen_removed": "iu", "later_day": "b"}  # arrays in a file of ranks, kinds of numbers


@dataclass
class Run:
    """The files of one run."""

    path: Path  # the common beginning of its files: FOLDER/TARGET
    name: str  # as tables show it
    dataset: str
    epochs: list[EpochRecord]
    final: FinalRecord | None  # None before the test
    fine_tuning: bool  # a run of train_HeLLM.py
    settings: dict  # as logged: of a fine-tuning those that differ from the defaults, of others all
    tests: dict[str, dict[str, MetricValue]]  # name of TESTS to metrics
    ranks: dict[str, np.ndarray]  # from `read_ranks`
    seeds: tuple[int, ...] = ()  # of a mean over runs, see utils/report/seeds.py
    other_files: list[str] = field(default_factory=list)  # data files that most runs of the dataset have not read

    @property
    def model(self) -> str:
        """The name of the run's folder: a GNNModel, SASRec or baselines."""
        return self.path.parent.name

    @property
    def files(self) -> dict[str, str]:
        """The checksums of the data files that it has read, by name; empty before the test, and in earlier versions."""
        return (self.final.files if self.final else None) or {}

    @property
    def is_graph_pretraining(self) -> bool:
        """Return whether the run was tested by its own protocol only, training items removed."""
        return self.tests.keys() == {"test"}

    @property
    def validation(self) -> Metrics:
        """The validation metrics of the best epoch, or of the last one before there is a best."""
        if self.final:
            best = [record.val for record in self.epochs if record.epoch == self.final.best_epoch]
            if best:
                return best[0]
            if not self.epochs:
                return self.final.val or {}
        return self.epochs[-1].val if self.epochs else {}


def run_file(run: Path, ending: str) -> Path:
    """Return the path of a run's file with this ending."""
    return run.with_name(f"{run.name}_{ending}")


def read_ranks(path: Path, final: FinalRecord) -> dict[str, np.ndarray]:
    """Read the ranks of the users behind each test, by its name of TESTS, int64 (n,); empty without a file.

    Args:
        path: the `_ranks.npz` of a run.
        final: the test of the same run, whose metrics must be those of the ranks.

    Raises:
        ValueError: the file is damaged, or its ranks do not have the recorded metrics.
    """
    if not path.is_file():
        return {}
    arrays = {}
    try:
        with zipfile.ZipFile(path) as file:
            for name, kinds in RANK_KINDS.items():
                is_absent = name == "later_day" and f"{name}.npy" not in file.namelist()
                if not is_absent and _has_rank_header(file, f"{name}.npy", final.users, kinds):
                    with file.open(f"{name}.npy") as member:
                        arrays[name] = npy.read_array(member)
    except Exception as error:  # zipfile and NumPy raise many kinds for a damaged file
        raise ValueError(f"{path}: cut short or no file of ranks; remove it, or run again") from error
    later_day = arrays.pop("later_day", None)
    ranks = {}
    if len(arrays) == 2 and min(array.min() for array in arrays.values()) > 0:
        arrays = {name: array.astype(np.int64) for name, array in arrays.items()}
        ranks = Ranking(**arrays, users_per_s=0.0, later_day=later_day).by_test()
    if not ranks or not all(_has_metrics(ranks.get(name), getattr(final, name)) for name in TESTS):
        raise ValueError(f"{path}: not the ranks of the {final.users:,} users in the metrics beside it; run again")
    return ranks


def _has_rank_header(file: zipfile.ZipFile, name: str, users: int, kinds: str) -> bool:
    """Tell by its header alone whether an array of an .npz file has one number per user, of one of NumPy's kinds."""
    with file.open(name) as member:
        if npy.read_magic(member) != (1, 0):  # headers of later versions may have any length
            return False
        shape, _, dtype = npy.read_array_header_1_0(member)
    return users > 0 and shape == (users,) and dtype.kind in kinds


def _has_metrics(ranks: np.ndarray | None, recorded: Metrics | None) -> bool:
    if ranks is None or recorded is None:
        return ranks is recorded
    computed = ranking_metrics(ranks)
    in_both = computed.keys() & recorded.keys()  # earlier versions may lack a metric
    return bool(in_both) and all(abs(recorded[name] - computed[name]) < 1e-9 for name in in_both)


def read_run(path: Path, mark: str = "") -> Run:
    """Read a run that has at least one of its files.

    Args:
        path: the common beginning of its files.
        mark: text behind its name.

    Raises:
        ValueError: a file can't be read; names the file, and the line.
    """
    epochs, final = read_metrics(run_file(path, "metrics.jsonl"))
    title = ""
    settings = final.settings if final else None
    if settings is None:  # not finished, or by an earlier version
        log = run_file(path, "log.txt")
        title, settings = read_settings(log) if log.is_file() else ("", {})
    is_tuned = final is not None and final.popularity is not None
    ranks = read_ranks(run_file(path, "ranks.npz"), final) if final else {}
    tests = {}
    for test in TESTS:
        metrics = getattr(final, test, None)
        if metrics:
            bounds = intervals(ranks[test]) if ranks else {}
            tests[test] = {
                name: MetricValue(metrics[name], *bounds.get(name, ())) for name in HEADLINE_METRICS if name in metrics
            }
    return Run(
        path=path,
        name=f"{path.parent.name}/{path.name}{mark}",
        dataset=path.parent.parent.name,
        epochs=epochs,
        final=final,
        fine_tuning=is_tuned or title == NON_DEFAULT_SETTINGS,
        settings=settings,
        tests=tests,
        ranks=ranks,
    )


def find_runs(folder: Path) -> list[Run]:
    """Read all runs of a log folder and of its subfolder `kept`, the best by validation first, untested ones last.

    Where there are runs in both, their names say which is whose. All are compared by the same metric at the epoch that
    each has chosen, also those that chose it by another metric.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: a file can't be read; names the file, and the line.
    """
    kept = folder / KEPT.name
    kept_paths = _run_paths(kept)
    own_paths = {path for path in _run_paths(folder) if not path.is_relative_to(kept)}
    paths = dict.fromkeys(own_paths, " (yours)" if kept_paths else "") | dict.fromkeys(kept_paths, " (kept)")
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no run; a run leaves {folder}/DATASET/GNNMODEL/TARGET_metrics.jsonl, give the folder of these"
        )
    runs = [read_run(path, mark) for path, mark in sorted(paths.items())]
    return sorted(runs, key=lambda run: (run.final is None, -run.validation.get(SELECTION_METRIC, 0)))


def _run_paths(folder: Path) -> set[Path]:
    """Return the common beginnings of the files of all runs in DATASET/GNNMODEL of a folder."""
    files = [path for ending in FILES[:2] for path in folder.glob(f"*/*/*_{ending}")]
    return {path.with_name(re.sub("_(log.txt|metrics.jsonl)$", "", path.name)) for path in files}
