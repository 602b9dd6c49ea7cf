"""The records of a metrics file."""

import json
from pathlib import Path

import pytest

from tests.support.records import epoch, epoch_records, last
from utils.logs.records import EpochRecord, FinalRecord, read_metrics, to_jsonl, training_seconds

KEPT = Path(__file__).parents[2] / "log" / "kept"


@pytest.mark.parametrize("path", sorted(KEPT.glob("*/*/*_metrics.jsonl")), ids=lambda path: path.stem)
def test_kept_metrics_are_read_and_written_with_equal_keys_and_values(path):
    epochs, final = read_metrics(path)
    assert final is not None
    written = to_jsonl([*epochs, final]).splitlines()
    assert [json.loads(line) for line in written] == [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_of_epochs_alone_has_no_final_record(tmp_path):
    path = tmp_path / "x_metrics.jsonl"
    assert read_metrics(path) == ([], None)
    path.write_text(to_jsonl(epoch_records(0, 1)))
    assert read_metrics(path) == (epoch_records(0, 1), None)


def test_optional_keys_may_be_missing_and_unknown_keys_are_ignored():
    record = EpochRecord.from_json(epoch(0) | {"of_a_later_version": []})
    assert record.to_json() == epoch(0)
    final = FinalRecord.from_json({"test": last()["test"], "users": 4})
    assert (final.best_epoch, final.settings, final.seconds) == (None, None, None)
    assert final.to_json().keys() == {"test", "users"}


def test_seconds_of_epochs_between_records_count():
    records = [EpochRecord.from_json(epoch(number, seconds)) for number, seconds in ((4, 2.0), (9, 3.0))]
    assert training_seconds(records) == 5 * 2 + 5 * 3
    assert training_seconds([]) == 0


@pytest.mark.parametrize(
    "damage", [b'{"epoch": 1, "tr', b"7", b'{"epoch": "\xe9"}', b'{"a": ' + b"[" * 10**5, b"", b"\0"], ids=range(6)
)
def test_a_line_that_is_no_json_object_is_named(tmp_path, damage):
    path = tmp_path / "x_metrics.jsonl"
    path.write_bytes(json.dumps(epoch(0)).encode() + b"\n" + damage + b"\n")
    with pytest.raises(ValueError, match="x_metrics.jsonl: line 2 is no JSON object"):
        read_metrics(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (epoch(1) | {"seconds": "2"}, "seconds is '2'; give it a number, or remove the file"),
        (epoch(1) | {"seconds": -1}, "seconds is -1; give it a number, or remove the file"),
        (epoch(1) | {"val": {}}, "val is {}; give it numbers for Recall@10, NDCG@10, Recall@20, NDCG@20, or remove "),
        (epoch(1) | {"epoch": 1.5}, "epoch is 1.5; give it a whole number, or remove the file"),
        (last() | {"users": None}, "users is None; give it a whole number, or remove the file"),
        (last() | {"settings": []}, r"settings is \[\]; give it an object, or remove the file"),
        ({"test": last()["test"]}, "users is missing; give it a whole number, or remove the file"),
        ({"val": last()["test"]}, "neither epoch nor test; remove the line, or the file"),
    ],
)
def test_a_wrong_or_missing_value_is_named_with_line_and_key(tmp_path, values, message):
    path = tmp_path / "x_metrics.jsonl"
    path.write_text(json.dumps(epoch(0)) + "\n" + json.dumps(values) + "\n")
    with pytest.raises(ValueError, match=f"x_metrics.jsonl: line 2: {message}"):
        read_metrics(path)
