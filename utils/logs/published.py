"""The metrics that the authors' released logs report, kept in log/kept/published.json."""

import json

import numpy as np

from utils.evaluation.metrics import HEADLINE_METRICS
from utils.io.kept import KEPT
from utils.logs.records import Metrics

PUBLISHED = KEPT / "published.json"


def published_log(name: str) -> dict:
    """Return the released log of "model/dataset": its lists of values by epoch; empty without one."""
    return json.loads(PUBLISHED.read_text()).get(name, {}) if PUBLISHED.is_file() else {}


def published_tests(published: dict) -> dict[str, Metrics]:
    """Return the published test metrics that ours are compared with, by title.

    A log with test metrics in every epoch gives two: first the epoch with the best Recall@20, then the last epoch.

    Args:
        published: a log from `published_log`.
    """
    if "test" in published:
        return {"test": published["test"]}
    if published.get("split") != "test":
        return {}
    best = int(np.argmax(published["Recall@20"]))
    indices = {
        f"best epoch on test ({published['epoch'][best]})": best,
        f"last epoch ({published['epoch'][-1]})": -1,
    }
    names = [name for name in HEADLINE_METRICS if name in published]
    return {title: {name: published[name][index] for name in names} for title, index in indices.items()}
