"""Records of metrics files, as the JSON objects in the file and as dataclasses."""

import numpy as np

from utils.evaluation.metrics import ranking_metrics
from utils.logs.records import EpochRecord, FinalRecord

RANK = np.array([1, 4, 11, 300])
ODD_VALUES = (None, True, "x", [], [1], {}, {"a": "b"}, {"NDCG@10": None}, 1.5, -1, float("nan"), float("inf"), 10**400)
DAMAGED_METRICS = {"NDCG@10", "Recall@5"}  # they stand for the other metrics


def epoch(number, seconds=2.0):
    """Return the JSON object of an epoch."""
    values = {"epoch": number, "train_loss": 3.0, "lr": 1e-3, "seconds": seconds, "samples_per_s": 10.0}
    return values | {"val": ranking_metrics(RANK)}


def last():
    """Return the JSON object of a test."""
    values = ranking_metrics(RANK)
    tests = {"test": values, "test_unseen": values, "popularity": values}
    return {"best_epoch": 1, **tests, "users": len(RANK), "users_per_s": 5.0}


def epoch_records(*numbers):
    return [EpochRecord.from_json(epoch(number)) for number in numbers]


def final_record():
    return FinalRecord.from_json(last())


def damaged(record):
    """Yield a JSON object without each of its keys or with an odd value there; also for the objects in it."""
    for key, value in record.items():
        yield {name: other for name, other in record.items() if name != key}
        yield from (record | {key: odd} for odd in ODD_VALUES)
        if isinstance(value, dict):
            kept = {name: other for name, other in value.items() if "@" in name and name not in DAMAGED_METRICS}
            inner = {name: other for name, other in value.items() if name not in kept}
            yield from (record | {key: kept | changed} for changed in damaged(inner))
