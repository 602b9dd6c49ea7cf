"""All runs of a log folder at a glance: log/report.md and log/report.html, beside what is published; any two in detail.

python -m utils.report log/
python -m utils.report --compare log/Beauty/MMHCL/best-2024 log/Beauty/baselines/item-kNN
"""

import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from config_HeLLM import PRESETS, Settings
from preprocess import pretrain_graph
from preprocess.pretraining.sasrec import SequenceSettings
from utils.cli.errors import run_program
from utils.cli.flags import Parser
from utils.evaluation.bootstrap import paired_difference
from utils.io.atomic import atomic_write
from utils.logs.published import published_log, published_tests
from utils.logs.records import HEADLINE_METRICS, SELECTION_METRIC, training_seconds
from utils.logs.run_log import FILES
from utils.report.page import MetricValue, Section, Table, table_to_markdown, to_html, to_markdown
from utils.report.runs import BASELINES, HIDDEN_SETTINGS, PROTOCOLS, Run, find_runs, read_run, run_file

VERDICT_RULE = (
    "Verdict: each of "
    + ", ".join(HEADLINE_METRICS)
    + " on test, all items ranked, is put beside the published log's figure. Better by: the 95 % intervals of all four "
    "lie above; by as much as the one that gains least. Short by: an interval lies below; by as much as the one that "
    "loses most. Else reproduced. Intervals are of ours alone (bootstrap over users, percentiles), since the published "
    "logs hold no ranks; where ours are not kept either, an interval is the figure itself. A dataset's verdict is that "
    f"of the run with the best validation {SELECTION_METRIC}."
)


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
        if name not in HIDDEN_SETTINGS and (name not in base or value != base[name]):
            told.append(f"{'' if value else 'no '}{name}" if isinstance(value, bool) else f"{name} {value}")
    return told


def verdict(figures: dict[str, MetricValue], published: dict[str, float]) -> str:
    """One run beside published figures, by RULE."""
    gain = {name: 100 * (figures[name].value / published[name] - 1) for name in HEADLINE_METRICS}
    below = [name for name in HEADLINE_METRICS if figures[name].ends[1] < published[name]]
    least = min(below or HEADLINE_METRICS, key=gain.get)
    decided_by = least if figures[least].low is not None else f"{least}, no interval"
    if below:
        return f"short by {-gain[least]:.1f} % ({decided_by})"
    if all(figures[name].ends[0] > published[name] for name in HEADLINE_METRICS):
        return f"better by {gain[least]:.1f} % ({decided_by})"
    return "reproduced"


def cost_cells(run: Run) -> list[str]:
    """Minutes of training, samples a second and peak memory in GB, as cells."""
    seconds = training_seconds(run.epochs)
    speeds, peak = [record.samples_per_s for record in run.epochs], run.last and run.last.peak_memory_bytes
    weights = [record.seconds for record in run.epochs]
    return [
        f"{seconds / 60:.1f}" if seconds else "",
        f"{np.average(speeds, weights=weights):,.0f}" if seconds else "",
        f"{peak / 1e9:.2f}" if peak else "",
    ]


def runs_table(title: str, runs: list[Run], protocol: str, published: dict[str, dict[str, float]]) -> Table:
    """Runs by one protocol, the published figures above them."""
    header = ["run", "settings", "best epoch", *HEADLINE_METRICS]
    header += ["verdict"] * bool(published) + ["training, min", "samples/s", "peak, GB"]
    rows = []
    for name, values in published.items():
        rows.append([f"published log, {name}", "", "", *(MetricValue(values[m]) for m in HEADLINE_METRICS)])
        rows[-1] += [""] * (len(header) - len(rows[-1]))
    for run in runs:
        epoch = run.last.best_epoch if run.last else f"{len(run.epochs)} done, no test yet"
        figures = run.tests.get(protocol)
        rows.append(
            [
                run.name,
                describe(run),
                "" if epoch is None else str(epoch),
                *(figures[m] if figures else "" for m in HEADLINE_METRICS),
            ]
        )
        if published:
            rows[-1].append(verdict(figures, next(iter(published.values()))) if figures else "")
        rows[-1] += cost_cells(run)
    return Table(title, header, rows, n_published=len(published))


def dataset_section(dataset: str, runs: list[Run]) -> Section:
    """One dataset: its verdict, the curves of the run behind it, and all runs."""
    published = published_tests(published_log(f"HeLLM/{dataset}"))
    graph = [run for run in runs if run.tests.keys() == {"test"}]
    others = [run for run in runs if run not in graph]
    section = Section(dataset, verdict="no finished run of HeLLM", picture=None, tables=[])
    best = next((run for run in others if run.fine_tuning and run.last), None)
    if best:
        beside = [f"beside the published {name} {verdict(best.tests['test'], v)}" for name, v in published.items()]
        section.verdict = f"{best.name}: {'; '.join(beside) or 'no published log of this dataset'}"
        picture = run_file(best.path, "curves.png")
        section.picture = picture if picture.is_file() else None
    if others or published:
        section.tables.append(runs_table("Test, all items ranked (the published protocol)", others, "test", published))
    tested = [run for run in others if run.last]
    if tested:
        section.tables.append(
            runs_table("Test, the user's history removed from the ranking", tested, "test_unseen", {})
        )
    for name in sorted({run.path.parent.name for run in graph}):
        of_name = [run for run in graph if run.path.parent.name == name]
        title = f"{name} alone, in pre-training: test, training items removed from the ranking"
        section.tables.append(runs_table(title, of_name, "test", published_tests(published_log(f"{name}/{dataset}"))))
    return section


def write_report(folder: Path) -> None:
    """Make report.md and report.html of all runs below a log folder.

    Raises:
        FileNotFoundError: no run; ValueError: a file that can't be read, named.
    """
    runs = find_runs(folder)
    by_dataset = {name: [run for run in runs if run.dataset == name] for name in sorted({run.dataset for run in runs})}
    sections = [dataset_section(dataset, of_dataset) for dataset, of_dataset in by_dataset.items()]
    title, notes = f"{len(runs)} runs on {', '.join(by_dataset)}", [VERDICT_RULE]
    texts = {
        folder / "report.md": to_markdown(title, notes, sections, folder),
        folder / "report.html": to_html(title, notes, sections),
    }
    for path, text in texts.items():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print("written: " + ", ".join(map(str, texts)))


def find_run(name: str) -> Run:
    """The run that a path names: one of its files, or what they have in common.

    Raises:
        FileNotFoundError: no such run, or one without ranks; ValueError: a file that can't be read.
    """
    path = Path(re.sub(f"_({'|'.join(map(re.escape, FILES))})$", "", name)).absolute()
    if not any(run_file(path, kind).is_file() for kind in FILES[:2]):
        raise FileNotFoundError(f"{path}: no such run; give its files' path without _metrics.jsonl and the like")
    run = read_run(path)
    if not run.ranks:
        what, parent = "no test ranks of a finished run; run it again to have them", path.parent.name
        if run.tests.keys() == {"test"}:
            what = "pre-training of graphs leaves no test ranks; compare what python -m utils.baselines "
            what += f"--dataset {run.dataset} --GNNModel {parent} writes to {BASELINES}/{parent}"
        raise FileNotFoundError(f"{run_file(path, 'ranks.npz')}: {what}")
    return run


def compare(names: list[str]) -> None:
    """Print a paired bootstrap between two runs, as Markdown.

    Raises:
        ValueError, FileNotFoundError: as `run_at`, or two runs whose users differ.
    """
    runs = [find_run(name) for name in names]
    if runs[0].dataset != runs[1].dataset:
        raise ValueError(f"{names[0]} is on {runs[0].dataset}, {names[1]} on {runs[1].dataset}: nothing to pair")
    first, second = (run.name for run in runs)
    tables = [f"{runs[0].last.users:,} users of {runs[0].dataset}; bootstrap over users, paired\n"]
    for protocol, of_ranks in PROTOCOLS.items():
        found = paired_difference(*(run.ranks[of_ranks] for run in runs))
        rows = []
        for name in HEADLINE_METRICS:
            both = [str(MetricValue(getattr(run.last, protocol)[name])) for run in runs]
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
    return run_program(compare, given.compare) if given.compare else run_program(write_report, given.folder)


if __name__ == "__main__":
    sys.exit(main())
