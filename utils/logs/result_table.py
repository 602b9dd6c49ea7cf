"""The table at the end of a run: its test beside what is known of the same users by other ways."""

import contextlib
from pathlib import Path

from utils.cli.layout import align
from utils.evaluation.metrics import HEADLINE_METRICS, format_metric
from utils.logs.published import published_tests
from utils.logs.records import FinalRecord, Metrics, read_metrics

TESTS = {  # titles of the tests in a record
    "test": "test (all items ranked)",
    "test_unseen": "test (history removed)",
    "test_later_day": "later day (all items ranked)",
    "test_later_day_unseen": "later day (history removed)",
    "test_same_day": "same day (all items ranked)",
    "test_same_day_unseen": "same day (history removed)",
    "popularity": "popularity baseline",
}
# Records of the inputs alone, by title: those of utils.baselines, which test by both protocols, before a pre-training's
INPUTS = {
    "SASRec alone": ("baselines/SASRec", "SASRec/pretrain"),
    "MMHCL alone": ("baselines/MMHCL", "MMHCL/pretrain"),
}


def input_tests(folder: Path, users: int) -> dict[str, Metrics]:
    """Return the tests of SASRec and MMHCL alone that are recorded, by title.

    Args:
        folder: log folder of the dataset.
        users: number of tested users; records of another number are of other data.
    """
    rows = {}
    for title, names in INPUTS.items():
        for name in names:
            final = None
            with contextlib.suppress(ValueError):  # another run's record that can't be read is that run's problem
                _, final = read_metrics(folder / f"{name}_metrics.jsonl")
            if final is None or final.users != users:
                continue
            is_graph = final.test_unseen is None  # whose test removes the training items
            rows[f"{title} ({'history removed' if is_graph else 'all items ranked'})"] = final.test
            if not is_graph:
                rows[f"{title} (history removed)"] = final.test_unseen
            break
    return rows


def result_lines(final: FinalRecord, inputs: dict[str, Metrics], published: dict) -> list[str]:
    """Return the lines of the table.

    Args:
        final: the test.
        inputs: tests of the inputs alone, by title.
        published: the authors' log from `published_log`; may be empty.
    """
    tests = {title: getattr(final, name) for name, title in TESTS.items() if getattr(final, name)}
    if not final.test_unseen:
        tests = {"test (training items removed)": final.test}
    reported = {f"published {title}": values for title, values in published_tests(published).items()}
    rows = [["", *HEADLINE_METRICS]]
    for title, values in (tests | inputs | reported).items():
        rows.append([title, *(format_metric(values, name) for name in HEADLINE_METRICS)])
    return align(rows)
