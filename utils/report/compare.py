"""Compare two runs by a paired bootstrap over their users."""

import re
from pathlib import Path

from utils.evaluation.bootstrap import paired_difference
from utils.evaluation.metrics import HEADLINE_METRICS, format_metric
from utils.logs.run_log import FILES
from utils.report.page import Table, table_to_markdown
from utils.report.runs import BASELINES, TESTS, Run, read_run, run_file


def find_run(name: str) -> Run:
    """Read the run that a path names: one of its files, or their common beginning.

    Raises:
        FileNotFoundError: there is no such run, or it has no ranks.
        ValueError: a file can't be read.
    """
    endings = "|".join(map(re.escape, FILES))
    path = Path(re.sub(f"_({endings})$", "", name)).absolute()
    if not any(run_file(path, ending).is_file() for ending in FILES[:2]):
        raise FileNotFoundError(f"{path}: no such run; give its files' path without _metrics.jsonl and the like")
    run = read_run(path)
    if not run.ranks:
        problem = "no test ranks of a finished run; run it again to have them"
        if run.is_graph_pretraining:
            problem = (
                "pre-training of graphs writes no test ranks; compare what python -m utils.baselines "
                f"--dataset {run.dataset} --GNNModel {run.model} writes to {BASELINES}/{run.model}"
            )
        raise FileNotFoundError(f"{run_file(path, 'ranks.npz')}: {problem}")
    return run


def compare(names: list[str]) -> None:
    """Print the metrics of two runs, their difference and its p-value, as Markdown tables, one per test that both have.

    Args:
        names: paths of two runs, as `find_run` takes them.

    Raises:
        FileNotFoundError: there is no such run, or it has no ranks.
        ValueError: a file can't be read, or the runs have different users.
    """
    first, second = (find_run(name) for name in names)
    if first.dataset != second.dataset:
        raise ValueError(f"{names[0]} is on {first.dataset}, {names[1]} on {second.dataset}: nothing to pair")
    parts = [f"{first.final.users:,} users of {first.dataset}; bootstrap over users, paired\n"]
    for test, title in TESTS.items():
        if test not in first.ranks or test not in second.ranks:
            continue
        differences = paired_difference(first.ranks[test], second.ranks[test])
        if test not in ("test", "test_unseen"):
            title += f", {len(first.ranks[test]):,} users"
        rows = []
        for name in HEADLINE_METRICS:
            values = [format_metric(getattr(run.final, test), name) for run in (first, second)]
            found = differences[name]
            interval = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
            rows.append([name, *values, interval, f"{found.p:.4f}"])
        header = [title, first.name, second.name, "second - first [95 %]", "p"]
        parts.append(table_to_markdown(Table("", header, rows)))
    print("\n".join(parts), end="")
