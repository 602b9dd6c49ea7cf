"""Results of the runs of a sweep: finished records, failures and the table of both."""

import contextlib
from dataclasses import dataclass, replace

from config_HeLLM import Settings, run_fingerprint
from utils.cli.layout import SCREEN_WIDTH, align
from utils.cli.restored import diff_settings, restore_settings
from utils.cli.terminal import print_line
from utils.evaluation.metrics import HEADLINE_METRICS, format_headline_metrics, format_mean, format_metric
from utils.io.atomic import atomic_write
from utils.logs.records import FinalRecord, read_metrics
from utils.logs.run_log import FAILED, log_path
from utils.report.page import Table, table_to_markdown
from utils.sweep.command import ABLATION, FIELD_TYPES
from utils.sweep.grid import SweepRun
from utils.training.build import data_checksums, open_log


def finished_record(settings: Settings) -> FinalRecord | None:
    """Return the test record of a finished run, with the validation of its best epoch; None before the test.

    Raises:
        ValueError: an unreadable metrics file, or one of other settings or data files.
        FileNotFoundError: a data file is missing.
    """
    path = log_path(settings, "metrics.jsonl")
    epochs, final = read_metrics(path)
    if final is None:
        return None
    recorded = final.settings or {}
    of_other_versions = {name: value for name, value in recorded.items() if name not in FIELD_TYPES}
    finished_with = of_other_versions | run_fingerprint(restore_settings(Settings, recorded, path))
    differences = diff_settings(finished_with, run_fingerprint(settings))
    if final.files:  # earlier versions did not record them
        differences += diff_settings(final.files, data_checksums(settings))
    if differences:
        found = f"finished under other settings or data: {'; '.join(differences)}"
        raise ValueError(f"{path}: {found}; use the same ones or another --target")
    best = [record for record in epochs if record.epoch == final.best_epoch]
    try:
        final = replace(final, val=best[0].val, val_unseen=best[0].val_unseen)
        final.score(settings.choose_by)
    except LookupError:
        what = f"no {settings.choose_by} of the best epoch, {final.best_epoch}"
        raise ValueError(f"{path}: {what}; remove the file to run it again") from None
    return final


def print_test(settings: Settings) -> None:
    """Print the test of a run that has just ended, if it has one, and where its log is."""
    _, final = read_metrics(log_path(settings, "metrics.jsonl"))
    if final:
        print_line(f"  test {format_headline_metrics(final.test)}")
        print_line(f"  {log_path(settings, 'log.txt')}")


def record_failure(settings: Settings, reason: str) -> None:
    """Print why a run failed, and write it beside the run's log, where the tables of all shards find it."""
    print_line(f"{settings.target} failed: {reason}")
    path = log_path(settings, FAILED)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(" ".join(reason.split()) + "\n", encoding="utf-8")


def recorded_failures(runs: list[SweepRun]) -> dict[str, str]:
    """Return the reasons of failed runs, of all shards, by target."""
    failures = {}
    for run in runs:
        if run.settings:
            with contextlib.suppress(FileNotFoundError):
                failures[run.settings.target] = log_path(run.settings, FAILED).read_text(encoding="utf-8").strip()
    return failures


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in their seed alone, or a single run."""

    title: str  # of several runs; empty for one
    runs: list[SweepRun]
    records: list[FinalRecord | None]  # of each run; None before its test

    def score(self, criterion: str) -> float:
        """Return the mean of the validation metric `criterion` over the finished runs, -1 without one."""
        scores = [record.score(criterion) for record in self.records if record]
        return sum(scores) / len(scores) if scores else -1.0

    def describe(self) -> str:
        """Return the title of the row of means."""
        n_finished = sum(record is not None for record in self.records)
        if n_finished == 1:
            return f"{self.title}, 1 of {len(self.records)} seeds"
        count = len(self.records) if n_finished == len(self.records) else f"{n_finished} of {len(self.records)}"
        return f"{self.title}, mean ± standard deviation of {count} seeds"


def group_runs(runs: list[SweepRun]) -> list[RunGroup]:
    """Return the runs with their results, those together that differ in their seed alone.

    Raises:
        ValueError, FileNotFoundError: as `finished_record`.
    """
    groups = []
    for run in runs:
        record = finished_record(run.settings) if run.settings else None
        if run.group and groups and groups[-1].title == run.group:
            groups[-1].runs.append(run)
            groups[-1].records.append(record)
        else:
            groups.append(RunGroup(run.group, [run], [record]))
    return groups


def log_means(runs: list[SweepRun], trained: set[str]) -> None:
    """Log mean and sample standard deviation over seeds, in the log of the last of them.

    Args:
        runs: the runs of all shards.
        trained: targets that were trained now; without one of a group, its mean is in the log already.
    """
    for group in group_runs(runs):
        targets = {run.settings.target for run in group.runs if run.settings}
        if not group.title or None in group.records or not targets & trained:
            continue
        tests = [record.test for record in group.records]
        seeds = ", ".join(str(run.settings.seed) for run in group.runs)
        means = [f"{name} {format_mean([test[name] for test in tests])}" for name in HEADLINE_METRICS]
        with contextlib.closing(open_log(group.runs[-1].settings)) as log:
            log.info(f"Seeds:   {group.title}, {seeds}: test, mean ± sample standard deviation")
            for first in range(0, len(means), 2):  # two fit into a line
                log.info(f"{'':<9}{'  '.join(means[first : first + 2])}")


def write_table(base: Settings, name: str, runs: list[SweepRun], running_elsewhere: set[str]) -> None:
    """Print the results of all runs as Markdown, and write them to `{target}_{name}.md` beside the logs.

    Args:
        base: the settings that all runs share.
        name: name of the sweep, so that each of several sweeps of one target has its table.
        runs: the runs of all shards.
        running_elsewhere: targets that other processes run now.
    """
    failures = recorded_failures(runs)
    is_ablation = name.startswith(ABLATION)
    if is_ablation:
        header = [f"{base.dataset}, test", *HEADLINE_METRICS]
    else:
        header = ["run", "best epoch", base.choose_by, *(f"test {name}" for name in HEADLINE_METRICS)]
    groups = group_runs(runs)
    if not is_ablation:
        groups.sort(key=lambda group: -group.score(base.choose_by))
    rows = []
    for group in groups:
        found = [record for record in group.records if record]
        if group.title and found:
            cells = [format_mean([record.test[name] for record in found]) for name in HEADLINE_METRICS]
            if not is_ablation:
                cells = ["", format_mean([record.score(base.choose_by) for record in found]), *cells]
            rows.append([group.describe(), *cells])
        for run, record in zip(group.runs, group.records, strict=True):
            if record is None:
                empty = [""] * (len(header) - 1)
                rows.append([f"{run.title} ({_status(run, failures, running_elsewhere)})", *empty])
                continue
            cells = [format_metric(record.test, name) for name in HEADLINE_METRICS]
            if not is_ablation:
                cells = [str(record.best_epoch + 1), f"{record.score(base.choose_by):.4f}", *cells]
            rows.append([run.title, *cells])
    notes = [f"{target} failed: {reason}" for target, reason in failures.items()]
    notes += [f"{run.title}: {run.remedy}" for run in runs if run.remedy]
    text = table_to_markdown(Table("", header, rows))
    if notes:
        text = "\n* ".join([text, *notes]) + "\n"
    path = log_path(base, f"{name}.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print_line("\n".join([*_screen_table(header, rows), *notes, f"Results: {path}"]))


def _screen_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of the table that is printed: shorter headings, and no deviations, which `log_means` prints."""
    short = [name.removeprefix("test ").replace("val_unseen.", "unseen ").replace("val.", "val ") for name in header]
    without_deviations = [[cell.partition(" ± ")[0] for cell in row] for row in rows]
    return align([short, *without_deviations], SCREEN_WIDTH)


def _status(run: SweepRun, failures: dict[str, str], running_elsewhere: set[str]) -> str:
    """Return in a few words why a run has no results."""
    if run.left_out:
        return run.left_out
    if run.settings.target in running_elsewhere:
        return "running elsewhere"
    return "failed" if run.settings.target in failures else "not finished"
