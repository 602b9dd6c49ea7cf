"""What a run leaves to read: a log, one JSON object an epoch, and a picture of the curves."""

import json
from pathlib import Path

import numpy as np

HEADLINE_METRICS = ("Recall@10", "NDCG@10", "Recall@20", "NDCG@20")
SELECTION_METRIC = "NDCG@10"  # of validation: decides which epoch is tested, and which run is the best
WHOLE, NUMBER, OBJECT, METRICS = "a whole number", "a number", "an object", f"numbers for {', '.join(HEADLINE_METRICS)}"
KINDS = {"epoch": WHOLE, "seconds": NUMBER, "samples_per_s": NUMBER, "val": METRICS}  # of what is read of a record
KINDS |= {"test": METRICS, "test_unseen": METRICS, "users": WHOLE, "best_epoch": WHOLE, "peak_memory_bytes": WHOLE}
KINDS |= {"settings": OBJECT, "files": OBJECT}
OF_EPOCH, OF_TEST = ("epoch", "seconds", "samples_per_s", "val"), ("test", "users")  # in all versions


def read_records(path: Path) -> list[dict]:
    """The records of a metrics file.

    Raises:
        ValueError: naming path and line of what is none.
    """
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} is no JSON object; remove it, or the file")
        check_record(path, number, record)
        records.append(record)
    return records


def check_record(path: Path, line: int, record: dict) -> None:
    """See that what is read of a record is there, and of its kind.

    Raises:
        ValueError: naming path, line and key.
    """
    needed = OF_EPOCH * ("epoch" in record) + OF_TEST * ("test" in record)
    if not needed:
        raise ValueError(f"{path}: line {line}: neither epoch nor test; remove the line, or the file")
    for key, kind in KINDS.items():
        if key in needed and key not in record or key in record and not _is(kind, record[key]):
            found = f"is {repr(record[key])[:40]}" if key in record else "is missing"
            raise ValueError(f"{path}: line {line}: {key} {found}; give it {kind}, or remove the file")


def _is(kind: str, value: object) -> bool:
    if kind == METRICS:
        return (
            _is(OBJECT, value) and value.keys() >= set(HEADLINE_METRICS) and all(_is(NUMBER, v) for v in value.values())
        )
    if kind == OBJECT:
        return isinstance(value, dict)
    return type(value) in ((int,) if kind == WHOLE else (int, float)) and 0 <= value < 2**53


def training_seconds(epochs: list[dict]) -> float:
    """Seconds of training in all; a record holds those of an epoch, and stands for all since the record before."""
    numbers = [-1, *(record["epoch"] for record in epochs)]
    return sum(record["seconds"] * n for record, n in zip(epochs, np.diff(numbers).tolist(), strict=True))
