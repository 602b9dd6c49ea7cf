"""All runs of a log folder at a glance: log/report.md and log/report.html, beside what is published; any two in detail.

python -m utils.report log/
python -m utils.report --compare log/Beauty/MMHCL/best-2024 log/Beauty/baselines/item-kNN
"""

import re
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.lib.format as npy

from config_HeLLM import FREE_TO_CHANGE, PRESETS, Settings
from preprocess import pretrain_graph
from preprocess.pretrain_sasrec import SequenceSettings
from utils.bootstrap import intervals, paired
from utils.files import replacing
from utils.flags import Parser, attempt
from utils.metrics import metrics
from utils.report_page import Figure, Section, Table, table_to_markdown, to_html, to_markdown
from utils.run_log import (
    BESIDE_PUBLISHED,
    CHOOSE_BY,
    FILES,
    SHOWN,
    published_log,
    published_tests,
    read_records,
    read_settings,
    training_seconds,
)

BASELINES = "baselines"  # the folder of utils.baselines
PROTOCOLS = {"test": "seen_kept", "test_unseen": "seen_removed"}  # in the metrics, in the ranks
UNSHOWN = (FREE_TO_CHANGE - {"batch_size", "grad_steps", "data_dir"}) | {"dataset", "GNNModel", "target"}
RULE = (
    "Verdict: each of "
    + ", ".join(SHOWN)
    + " on test, all items ranked, is put beside the published log's figure. Better by: the 95 % intervals of all four "
    "lie above; by as much as the one that gains least. Short by: an interval lies below; by as much as the one that "
    "loses most. Else reproduced. Intervals are of ours alone (bootstrap over users, percentiles), since the published "
    "logs hold no ranks; where ours are not kept either, an interval is the figure itself. A dataset's verdict is that "
    f"of the run with the best validation {CHOOSE_BY}."
)


@dataclass
class Run:
    """What one run has left; `path` is that of its files without `_metrics.jsonl` and the like."""

    path: Path
    dataset: str
    epochs: list[dict]  # a record each
    last: dict  # the record with the test; empty before it
    fine_tuning: bool  # a run of HeLLM: whose settings stand beside the published ones
    settings: dict  # as recorded: of fine-tuning those that differ, else all
    tests: dict[str, dict[str, Figure]]  # protocol to metrics
    ranks: dict[str, np.ndarray]  # of all tested users, as in `read_ranks`

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def validation(self) -> dict[str, float]:
        """Metrics of the best epoch, of the last one before there is a best."""
        best = [record["val"] for record in self.epochs if record["epoch"] == self.last.get("best_epoch")]
        return (best or [record["val"] for record in self.epochs[-1:]] or [self.last.get("val", {})])[0]


def read_ranks(path: Path, last: dict) -> dict[str, np.ndarray]:
    """Test ranks `seen_kept` and `seen_removed` of all users, int (N,); empty where there is no such file.

    Args:
        last: the record with the test.

    Raises:
        ValueError: no file of ranks, or not those that the recorded test is of.
    """
    if not path.is_file():
        return {}
    ranks, users = {}, last["users"]
    try:
        with zipfile.ZipFile(path) as file:
            for name in PROTOCOLS.values():
                if _are_whole(file, f"{name}.npy", users):
                    with file.open(f"{name}.npy") as member:
                        ranks[name] = npy.read_array(member).astype(np.int64)
    except Exception as error:  # many kinds for a damaged file
        raise ValueError(f"{path}: cut short or no file of ranks; remove it, or run again") from error
    for protocol, name in PROTOCOLS.items():
        recorded, possible = last.get(protocol, {}), name in ranks and ranks[name].min() > 0
        if not possible or not all(
            abs(recorded.get(metric, np.nan) - value) < 1e-9 for metric, value in metrics(ranks[name]).items()
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


def file_of(run: Path, kind: str) -> Path:
    return run.with_name(f"{run.name}_{kind}")


def read_run(path: Path) -> Run:
    """A run of which any file is there.

    Args:
        path: without `_metrics.jsonl` and the like.

    Raises:
        ValueError: naming the file, and the line, that can't be read.
    """
    metrics_file, log = file_of(path, "metrics.jsonl"), file_of(path, "log.txt")
    records = read_records(metrics_file) if metrics_file.is_file() else []
    epochs = [record for record in records if "epoch" in record]
    last = records[-1] if records and "test" in records[-1] else {}
    title, settings = "", last.get("settings", {})
    if "settings" not in last and log.is_file():
        title, settings = read_settings(log)
    fine_tuning = "popularity" in last or title == BESIDE_PUBLISHED
    ranks = read_ranks(file_of(path, "ranks.npz"), last) if last else {}
    tests = {}
    for protocol, of_ranks in PROTOCOLS.items():
        if protocol in last:
            ends = intervals(ranks[of_ranks]) if ranks else {}
            tests[protocol] = {name: Figure(last[protocol][name], *ends.get(name, ())) for name in SHOWN}
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
    return sorted(runs, key=lambda run: (not run.last, -run.validation.get(CHOOSE_BY, 0)))


def describe(run: Run) -> str:
    """The preset that is nearest to a run's settings, and what differs from it."""
    known, recorded = {}, run.settings
    if run.fine_tuning:
        known = {name: asdict(Settings(**changed)) for name, changed in PRESETS.items()}
        if set(recorded) - set(known["paper"]):  # settings of another version, which no other preset knows
            known = {"paper": known["paper"]}
        recorded = known["paper"] | recorded
    elif run.path.parent.name == "SASRec":
        known = {"default": asdict(SequenceSettings())}
    elif run.path.parent.name != BASELINES:
        published = pretrain_graph.PRESETS.get(run.dataset, {})
        known = {"published": asdict(pretrain_graph.GraphSettings(**published))}
    differ = {name: _differences(recorded, base) for name, base in known.items()} or {"": _differences(recorded, {})}
    nearest = min(differ, key=lambda name: len(differ[name]))
    return ", ".join(filter(None, [nearest, *differ[nearest]]))


def _differences(settings: dict, base: dict) -> list[str]:
    told = []
    for name, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value
        if name not in UNSHOWN and (name not in base or value != base[name]):
            told.append(f"{'' if value else 'no '}{name}" if isinstance(value, bool) else f"{name} {value}")
    return told


def verdict(figures: dict[str, Figure], published: dict[str, float]) -> str:
    """One run beside published figures, by RULE."""
    gain = {name: 100 * (figures[name].value / published[name] - 1) for name in SHOWN}
    below = [name for name in SHOWN if figures[name].ends[1] < published[name]]
    least = min(below or SHOWN, key=gain.get)
    decided_by = least if figures[least].low is not None else f"{least}, no interval"
    if below:
        return f"short by {-gain[least]:.1f} % ({decided_by})"
    if all(figures[name].ends[0] > published[name] for name in SHOWN):
        return f"better by {gain[least]:.1f} % ({decided_by})"
    return "reproduced"


def costs(run: Run) -> list[str]:
    """Minutes of training, samples a second and peak memory in GB, as cells."""
    seconds = training_seconds(run.epochs)
    speeds, peak = [record["samples_per_s"] for record in run.epochs], run.last.get("peak_memory_bytes")
    weights = [record["seconds"] for record in run.epochs]
    return [
        f"{seconds / 60:.1f}" if seconds else "",
        f"{np.average(speeds, weights=weights):,.0f}" if seconds else "",
        f"{peak / 1e9:.2f}" if peak else "",
    ]


def table_of(title: str, runs: list[Run], protocol: str, published: dict[str, dict[str, float]]) -> Table:
    """Runs by one protocol, the published figures above them."""
    header = ["run", "settings", "best epoch", *SHOWN]
    header += ["verdict"] * bool(published) + ["training, min", "samples/s", "peak, GB"]
    rows = []
    for name, values in published.items():
        rows.append([f"published log, {name}", "", "", *(Figure(values[m]) for m in SHOWN)])
        rows[-1] += [""] * (len(header) - len(rows[-1]))
    for run in runs:
        epoch = run.last.get("best_epoch", "") if run.last else f"{len(run.epochs)} done, no test yet"
        figures = run.tests.get(protocol)
        rows.append([run.name, describe(run), str(epoch), *(figures[m] if figures else "" for m in SHOWN)])
        if published:
            rows[-1].append(verdict(figures, next(iter(published.values()))) if figures else "")
        rows[-1] += costs(run)
    return Table(title, header, rows, n_published=len(published))


def section_of(dataset: str, runs: list[Run]) -> Section:
    """One dataset: its verdict, the curves of the run behind it, and all runs."""
    published = published_tests(published_log(f"HeLLM/{dataset}"))
    graph = [run for run in runs if run.tests.keys() == {"test"}]
    others = [run for run in runs if run not in graph]
    section = Section(dataset, verdict="no finished run of HeLLM", picture=None, tables=[])
    best = next((run for run in others if run.fine_tuning and run.last), None)
    if best:
        beside = [f"beside the published {name} {verdict(best.tests['test'], v)}" for name, v in published.items()]
        section.verdict = f"{best.name}: {'; '.join(beside) or 'no published log of this dataset'}"
        picture = file_of(best.path, "curves.png")
        section.picture = picture if picture.is_file() else None
    if others or published:
        section.tables.append(table_of("Test, all items ranked (the published protocol)", others, "test", published))
    tested = [run for run in others if run.last]
    if tested:
        section.tables.append(table_of("Test, the user's history removed from the ranking", tested, "test_unseen", {}))
    for name in sorted({run.path.parent.name for run in graph}):
        of_name = [run for run in graph if run.path.parent.name == name]
        title = f"{name} alone, in pre-training: test, training items removed from the ranking"
        section.tables.append(table_of(title, of_name, "test", published_tests(published_log(f"{name}/{dataset}"))))
    return section


def write_report(folder: Path) -> None:
    """Make report.md and report.html of all runs below a log folder.

    Raises:
        FileNotFoundError: no run; ValueError: a file that can't be read, named.
    """
    runs = find_runs(folder)
    by_dataset = {name: [run for run in runs if run.dataset == name] for name in sorted({run.dataset for run in runs})}
    sections = [section_of(dataset, of_dataset) for dataset, of_dataset in by_dataset.items()]
    title, notes = f"{len(runs)} runs on {', '.join(by_dataset)}", [RULE]
    texts = {
        folder / "report.md": to_markdown(title, notes, sections, folder),
        folder / "report.html": to_html(title, notes, sections),
    }
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print("written: " + ", ".join(map(str, texts)))


def run_at(name: str) -> Run:
    """The run that a path names: one of its files, or what they have in common.

    Raises:
        FileNotFoundError: no such run, or one without ranks; ValueError: a file that can't be read.
    """
    path = Path(re.sub(f"_({'|'.join(map(re.escape, FILES))})$", "", name)).absolute()
    if not any(file_of(path, kind).is_file() for kind in FILES[:2]):
        raise FileNotFoundError(f"{path}: no such run; give its files' path without _metrics.jsonl and the like")
    run = read_run(path)
    if not run.ranks:
        what, parent = "no test ranks of a finished run; run it again to have them", path.parent.name
        if run.tests.keys() == {"test"}:
            what = "pre-training of graphs leaves no test ranks; compare what python -m utils.baselines "
            what += f"--dataset {run.dataset} --GNNModel {parent} writes to {BASELINES}/{parent}"
        raise FileNotFoundError(f"{file_of(path, 'ranks.npz')}: {what}")
    return run


def compare(names: list[str]) -> None:
    """Print a paired bootstrap between two runs, as Markdown.

    Raises:
        ValueError, FileNotFoundError: as `run_at`, or two runs whose users differ.
    """
    runs = [run_at(name) for name in names]
    if runs[0].dataset != runs[1].dataset:
        raise ValueError(f"{names[0]} is on {runs[0].dataset}, {names[1]} on {runs[1].dataset}: nothing to pair")
    first, second = (run.name for run in runs)
    tables = [f"{runs[0].last['users']:,} users of {runs[0].dataset}; bootstrap over users, paired\n"]
    for protocol, of_ranks in PROTOCOLS.items():
        found = paired(*(run.ranks[of_ranks] for run in runs))
        rows = []
        for name in SHOWN:
            both = [str(Figure(run.last[protocol][name])) for run in runs]
            difference = f"{found[name].value:+.4f} [{found[name].low:+.4f}, {found[name].high:+.4f}]"
            rows.append([name, *both, difference, f"{found[name].p:.4f}"])
        header = [of_ranks.replace("_", " "), first, second, "second - first [95 %]", "p"]
        tables.append(table_to_markdown(Table("", header, rows)))
    print("\n".join(tables), end="")


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    parser = Parser(prog="python -m utils.report", description="Put the runs of a log folder into one table.")
    parser.add_argument("folder", nargs="?", type=Path, help="with logs, where report.md and report.html go")
    parser.add_argument("--compare", nargs=2, metavar="RUN", help="two runs in detail, by path and name: log/…/target")
    given = parser.parse_args(argv)
    if bool(given.folder) == bool(given.compare):
        parser.error("a log folder, or --compare and two runs")
    return attempt(compare, given.compare) if given.compare else attempt(write_report, given.folder)


if __name__ == "__main__":
    sys.exit(main())
