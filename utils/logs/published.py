"""What a run leaves to read: a log, one JSON object an epoch, and a picture of the curves."""

import json
from pathlib import Path

import numpy as np

from utils.logs.records import HEADLINE_METRICS

PUBLISHED = (
    Path(__file__).parents[2] / "log" / "kept" / "published.json"
)  # what the released logs say, by program/dataset


def published_log(name: str) -> dict:
    """What the released log of program/dataset says, value lists by epoch; empty where there is none."""
    return json.loads(PUBLISHED.read_text()).get(name, {}) if PUBLISHED.is_file() else {}


def published_tests(published: dict) -> dict[str, dict[str, float]]:
    """The published test figures that ours are put beside, by what they are, from `published_log`.

    Of a log with test metrics in every epoch the one with the best Recall@20 of them, first, and the last.
    """
    if "test" in published:
        return {"test": published["test"]}
    if published.get("split") != "test":
        return {}
    best = int(np.argmax(published["Recall@20"]))
    places = {f"best epoch on test ({published['epoch'][best]})": best, f"last epoch ({published['epoch'][-1]})": -1}
    return {title: {name: published[name][place] for name in HEADLINE_METRICS} for title, place in places.items()}
