"""The records of a metrics file: one JSON object per validated epoch, then one for the test.

The two dataclasses are the one definition of `_metrics.jsonl`. A field that is None is not in the file.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

# Fixed, unlike the metrics that logs and tables show: files of all versions have these
REQUIRED_METRICS = ("Recall@10", "NDCG@10", "Recall@20", "NDCG@20")
SELECTION_METRIC = "NDCG@10"  # of `val`: by it a report decides which run of a dataset is the best

Metrics = dict[str, float]  # name@cutoff to value, as `utils.evaluation.metrics.ranking_metrics` returns them
EXPECTED = {
    int: "a whole number",
    float: "a number",
    Metrics: f"numbers for {', '.join(REQUIRED_METRICS)}",
    dict: "an object",
    str: "a text",
}
MAX_INT = 2**53  # above this, JSON readers that know only floats round


@dataclass(kw_only=True)
class Record:
    """Read and write one line of a metrics file."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Check the values of a JSON object and make a record of them; other keys are ignored.

        Raises:
            ValueError: a key is missing or its value has another type; names the key and what is expected.
        """
        known = {}
        for spec in fields(cls):
            optional = spec.default is None
            expected = get_args(spec.type)[0] if optional else spec.type
            if spec.name in values:
                known[spec.name] = values[spec.name]
                problem = None if _is_valid(values[spec.name], expected) else f"is {repr(values[spec.name])[:40]}"
            else:
                problem = None if optional else "is missing"
            if problem:
                raise ValueError(f"{spec.name} {problem}; give it {EXPECTED[expected]}")
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object: its fields in order, without those that are None."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def score(self, criterion: str) -> float:
        """Return the validation metric that a criterion names, such as `val.NDCG@10` or `val_unseen.NDCG@10`.

        Raises:
            KeyError: the record lacks it.
        """
        split, _, metric = criterion.partition(".")
        return (getattr(self, split) or {})[metric]


@dataclass(kw_only=True)
class EpochRecord(Record):
    """The training of one epoch and its validation.

    A pre-training validates every few epochs. Its losses and seconds are then means per epoch since the last record.
    """

    epoch: int  # counted from 0
    train_loss: float  # nats, mean over the optimizer steps
    lr: float  # learning rate of the last step
    seconds: float  # of training, without validation
    samples_per_s: float
    val: Metrics  # all items ranked; graph pre-training: training items removed
    val_unseen: Metrics | None = None  # the user's history removed


@dataclass(kw_only=True)
class FinalRecord(Record):
    """The test of the best epoch: the last record of a finished run. Baselines and committees have no epochs."""

    best_epoch: int | None = None
    chosen_by: str | None = None  # the validation metric that has chosen it, such as val_unseen.NDCG@10
    test: Metrics  # all items ranked; graph pre-training: training items removed
    test_unseen: Metrics | None = None  # the user's history removed
    # Where days are known: users whose target falls on a later, or on the same day as the last item of their history
    test_later_day: Metrics | None = None
    test_later_day_unseen: Metrics | None = None
    test_same_day: Metrics | None = None
    test_same_day_unseen: Metrics | None = None
    popularity: Metrics | None = None  # of the popularity baseline, all items ranked; of fine-tuning only
    users: int  # number of tested users
    users_per_s: float | None = None  # speed of the test
    settings: dict | None = None  # fine-tuning: those that differ from the published ones; others: all
    files: dict | None = None  # what each input file is called, to its checksum
    tables: dict | None = None  # pre-training: the same of each table that it has written
    peak_memory_bytes: int | None = None  # allocated on the GPU, or resident on the CPU, of rank 0
    val: Metrics | None = None
    val_unseen: Metrics | None = None
    seconds: float | None = None  # of all training


def _is_valid(value: object, expected: Any) -> bool:
    if expected == Metrics:
        return (
            isinstance(value, dict)
            and value.keys() >= set(REQUIRED_METRICS)
            and all(_is_valid(number, float) for number in value.values())
        )
    if expected in (dict, str):
        return isinstance(value, expected)
    if expected is int:
        return type(value) is int and 0 <= value < MAX_INT
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max


def read_metrics(path: Path) -> tuple[list[EpochRecord], FinalRecord | None]:
    """Read a metrics file: the records of its epochs and that of the test, None before the test.

    A file that does not exist has no records.

    Raises:
        ValueError: a line is no record; names path, line and key.
    """
    records = []
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: line {number} is no JSON object; remove it, or the file")
        if "test" not in values and "epoch" not in values:
            raise ValueError(f"{path}: line {number}: neither epoch nor test; remove the line, or the file")
        kind = FinalRecord if "test" in values else EpochRecord
        try:
            records.append(kind.from_json(values))
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}, or remove the file") from None
    final = records[-1] if records and isinstance(records[-1], FinalRecord) else None
    return [record for record in records if isinstance(record, EpochRecord)], final


def to_jsonl(records: Iterable[Record]) -> str:
    """Return the text of a metrics file: one JSON object per line."""
    return "".join(json.dumps(record.to_json()) + "\n" for record in records)


def training_seconds(epochs: list[EpochRecord]) -> float:
    """Return the seconds of all training. A record's seconds count for every epoch since the record before it."""
    numbers = [-1, *(record.epoch for record in epochs)]
    n_epochs = np.diff(numbers).tolist()
    return sum(record.seconds * n for record, n in zip(epochs, n_epochs, strict=True))
