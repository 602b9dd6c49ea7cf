"""The tables of a report: one section per dataset, one row per run, and the verdict on it."""

from dataclasses import asdict

import numpy as np

from config_HeLLM import IGNORED_ON_RESUME, PRESETS, Settings
from preprocess.pretraining import graph_settings
from preprocess.pretraining.sequence_settings import SequenceSettings
from utils.evaluation.metrics import HEADLINE_METRICS
from utils.logs.published import published_log, published_tests
from utils.logs.records import SELECTION_METRIC, Metrics, training_seconds
from utils.report.other_files import mark_other_files
from utils.report.page import MetricValue, Section, Table
from utils.report.runs import BASELINES, Run, run_file
from utils.report.seeds import with_seed_means

DAY_METRICS = ("Recall@10", "NDCG@10")  # of the table by day
HIDDEN_SETTINGS = (IGNORED_ON_RESUME - {"batch_size", "grad_steps", "data_dir"}) | {"dataset", "GNNModel", "target"}
VERDICT_RULE = (
    f"Verdict: {', '.join(HEADLINE_METRICS)} on test, all items ranked, are compared with the published log. Better by "
    "x %: the 95 % intervals of all four lie above the published values; x is the smallest gain. Short by x %: at "
    "least one interval lies below the published value; x is the largest loss. Otherwise: reproduced. Intervals are "
    "percentiles of a bootstrap over the users of our run; the published logs contain no ranks to resample. Where the "
    "ranks of our run were not kept either, the interval is the value itself. A dataset's verdict is that of the run "
    f"with the best validation {SELECTION_METRIC}, all items ranked, at the epoch that each run has chosen."
)


def describe_settings(run: Run) -> str:
    """Name the preset nearest to a run's settings, the settings that differ from it, and unusual data files."""
    recorded = run.settings
    presets = {"": {}}
    if run.fine_tuning:
        presets = {name: asdict(Settings(**changed)) for name, changed in PRESETS.items()}
        if set(recorded) - set(presets["paper"]):  # settings of another version: they are known to differ from paper's
            presets = {"paper": presets["paper"]}
        recorded = presets["paper"] | recorded
    elif "members" in recorded:
        presets = {"committee": {}}
        recorded = {
            name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in recorded.items()
        }
    elif run.model == "SASRec":
        presets = {"default": asdict(SequenceSettings())}
    elif run.model != BASELINES:
        published = graph_settings.PRESETS.get(run.dataset, {})
        presets = {"published": asdict(graph_settings.GraphSettings(**published))}
    differences = {name: _differences(recorded, preset) for name, preset in presets.items()}
    nearest = min(differences, key=lambda name: len(differences[name]))
    described = ", ".join(filter(None, [nearest, *differences[nearest]]))
    return "; ".join(filter(None, [described, f"other {', '.join(run.other_files)}" if run.other_files else ""]))


def _differences(settings: dict, preset: dict) -> list[str]:
    """Return the settings that differ from a preset's as "name value", of switches as "name" or "no name"."""
    found = []
    for name, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value
        if name in HIDDEN_SETTINGS or (name in preset and value == preset[name]):
            continue
        if isinstance(value, bool):
            found.append(name if value else f"no {name}")
        else:
            found.append(f"{name} {value}")
    return found


def verdict(metrics: dict[str, MetricValue], published: Metrics) -> str:
    """Compare a run's test with published metrics by VERDICT_RULE."""
    names = [name for name in HEADLINE_METRICS if name in metrics and name in published]
    gain = {name: 100 * (metrics[name].value / published[name] - 1) for name in names}
    below = [name for name in names if metrics[name].bounds[1] < published[name]]
    least = min(below or names, key=gain.get)
    decided_by = least if metrics[least].interval else f"{least}, no interval"
    if below:
        return f"short by {-gain[least]:.1f} % ({decided_by})"
    if all(metrics[name].bounds[0] > published[name] for name in names):
        return f"better by {gain[least]:.1f} % ({decided_by})"
    return "reproduced"


def cost_cells(run: Run) -> list[str]:
    """Format minutes of training, samples per second and peak memory in GB; "" where unknown."""
    seconds = training_seconds(run.epochs)
    minutes = ""
    speed = ""
    if seconds:
        speeds = [record.samples_per_s for record in run.epochs]
        weights = [record.seconds for record in run.epochs]
        minutes = f"{seconds / 60:.1f}"
        speed = f"{np.average(speeds, weights=weights):,.0f}"
    peak = run.final.peak_memory_bytes if run.final else None
    return [minutes, speed, f"{peak / 1e9:.2f}" if peak else ""]


def runs_table(title: str, runs: list[Run], protocol: str, published: dict[str, Metrics]) -> Table:
    """Tabulate runs by one protocol, below the published metrics, by title; may be empty."""
    header = ["run", "settings", "best epoch", *HEADLINE_METRICS]
    if published:
        header.append("verdict")
    header += ["training, min", "samples/s", "peak, GB"]
    rows = []
    for name, values in published.items():
        metrics = {metric: MetricValue(value) for metric, value in values.items()}
        row = [f"published log, {name}", "", "", *(metrics.get(metric, "") for metric in HEADLINE_METRICS)]
        rows.append(row + [""] * (len(header) - len(row)))
    runs, kinds = with_seed_means(runs)
    for run in runs:
        metrics = run.tests.get(protocol, {})
        row = [run.name, describe_settings(run), _best_epoch(run)]
        row += [metrics.get(name, "") for name in HEADLINE_METRICS]
        if published:
            is_judged = metrics and not run.seeds
            row.append(verdict(metrics, next(iter(published.values()))) if is_judged else "")
        rows.append(row + cost_cells(run))
    return Table(title, header, rows, ["published"] * len(published) + kinds)


def _best_epoch(run: Run) -> str:
    if run.seeds:
        return ""
    if run.final is None:
        return f"{len(run.epochs)} done, no test yet"
    if run.final.best_epoch is None:
        return ""
    chosen_by = run.final.chosen_by
    return str(run.final.best_epoch) + (f", by {chosen_by}" if chosen_by not in (None, Settings.choose_by) else "")


def dataset_section(dataset: str, runs: list[Run]) -> Section:
    """Make the section of a dataset: its verdict, the curves of the run behind it, and the tables of all runs.

    Args:
        dataset: name of the dataset.
        runs: its runs, the best by validation first.
    """
    published = published_tests(published_log(f"HeLLM/{dataset}"))
    mark_other_files(runs)
    best = next((run for run in runs if run.fine_tuning and run.final), None)
    curves = run_file(best.path, "curves.png") if best else None
    return Section(
        title=dataset,
        verdict=_dataset_verdict(best, published),
        picture=curves if curves and curves.is_file() else None,
        tables=_test_tables([run for run in runs if not run.is_graph_pretraining], published)
        + _graph_tables(dataset, [run for run in runs if run.is_graph_pretraining]),
    )


def _dataset_verdict(best: Run | None, published: dict[str, Metrics]) -> str:
    if best is None:
        return "no finished run of HeLLM"
    if not published:
        return f"{best.name}: no published log of this dataset"
    verdicts = [
        f"{verdict(best.tests['test'], values)} against the published {title}" for title, values in published.items()
    ]
    return f"{best.name}: {'; '.join(verdicts)}"


def _test_tables(runs: list[Run], published: dict[str, Metrics]) -> list[Table]:
    """Tabulate the runs by both protocols of fine-tuning; only the first one is published."""
    tables = []
    if runs or published:
        tables.append(runs_table("Test, all items ranked (the published protocol)", runs, "test", published))
    tested = [run for run in runs if run.final]
    if tested:
        tables.append(runs_table("Test, the user's history removed from the ranking", tested, "test_unseen", {}))
    tables.append(_day_table("all items ranked", runs, ""))
    tables.append(_day_table("the user's history removed from the ranking", runs, "_unseen"))
    return [table for table in tables if table.rows]


def _day_table(title: str, runs: list[Run], protocol: str) -> Table:
    """Tabulate the runs that know days by the day of the target: the order of items of one day is not real."""
    days = {"later day": f"test_later_day{protocol}", "same day": f"test_same_day{protocol}"}
    header = ["run", "settings", *(f"{day} {name}" for day in days for name in DAY_METRICS)]
    rows = []
    runs, kinds = with_seed_means([run for run in runs if run.tests.keys() & days.values()])
    for run in runs:
        cells = [run.tests.get(test, {}).get(name, "") for test in days.values() for name in DAY_METRICS]
        rows.append([run.name, describe_settings(run), *cells])
    return Table(f"Test by whether the target falls on a later day than the last item, {title}", header, rows, kinds)


def _graph_tables(dataset: str, runs: list[Run]) -> list[Table]:
    """Tabulate the pre-trainings of graph embeddings, one table per model."""
    tables = []
    for model in sorted({run.model for run in runs}):
        title = f"{model} alone, in pre-training: test, training items removed from the ranking"
        published = published_tests(published_log(f"{model}/{dataset}"))
        tables.append(runs_table(title, [run for run in runs if run.model == model], "test", published))
    return tables
