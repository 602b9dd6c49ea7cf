"""What is joined to items: the order of ids, texts, pictures and features, and how many items they match."""

from pathlib import Path

import pytest

from preprocess import amazon, own
from tests.support.small_raw import raw
from utils.data.ids import canonical_form, explain_mismatch, match_ids, numeric_order

USERS = 6


def purchases(items, users=range(USERS), per_user=5):
    """Return a table in which each user buys successive items."""
    lines = [f"{user},{items[(row + n) % len(items)]},{n}" for row, user in enumerate(users) for n in range(per_user)]
    return "\n".join(["user,item,time", *lines]) + "\n"


def convert(root, text, *more):
    """Convert a table to the dataset X without a k-core; return the status."""
    (root / "table.csv").write_text(text, encoding="utf-8")
    flags = ["--dataset", "X", "--data_dir", str(root / "data"), "--k_core", "1", "--overwrite"]
    return own.main([str(root / "table.csv"), *flags, *more])


def dataset(root) -> Path:
    return root / "data" / "sequential" / "X"


def mapping(root, kind="i"):
    """Return the ids of a dataset in the order of their numbers."""
    return [line.split(",")[1] for line in (dataset(root) / f"{kind}_id_mapping.csv").read_text().splitlines()[1:]]


# ---------------------------------------------------------------- order of ids


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([str(n) for n in range(12, 0, -1)], [str(n) for n in range(1, 13)]),
        (["10", "-2", "007", "8", "-10"], ["-10", "-2", "007", "8", "10"]),
        (["3.0", "20.0", "100.0"], ["3.0", "20.0", "100.0"]),
        (["9" * 40, "1" + "0" * 40, "5"], ["5", "9" * 40, "1" + "0" * 40]),
        (["10", "9", "x"], ["10", "9", "x"]),  # one that is no number: sorted as text
    ],
)
def test_whole_numbers_are_numbered_in_their_order(tmp_path, items, expected):
    assert convert(tmp_path, purchases(items, users=[11, 9, 100], per_user=len(items))) == 0
    assert mapping(tmp_path) == expected
    assert mapping(tmp_path, "u") == ["9", "11", "100"]


def test_published_datasets_stay_sorted_as_text(tmp_path):
    """Amazon's ASINs of books are numbers, too."""
    books = [(f"u{n}", item, n) for n in range(4) for item in ("10", "9", "100")]
    raw(tmp_path / "data", purchases=books, items={"9": ("Book", "", [], "", "")})
    assert amazon.main(["--dataset", "Small", "--data_dir", str(tmp_path / "data"), "--k_core", "2"]) == 0
    lines = (tmp_path / "data" / "sequential" / "Small" / "i_id_mapping.csv").read_text().splitlines()
    assert lines[1:] == ["0,10", "1,100", "2,9"]


# ---------------------------------------------------------------- which ids mean the same


@pytest.mark.parametrize("text", ["123", "123.0", "00123", " 123 ", '"123"', "%22123%22", "+123", "1.23e2", "1.23E+02"])
def test_one_number_written_in_many_ways_is_one_id(text):
    assert canonical_form(text) == canonical_form("123")


@pytest.mark.parametrize("text", ["123.5", "1234", "-123", "123a", "1.234567e+02", "12 3", "", "１２３"])
def test_other_texts_are_other_ids(text):
    assert canonical_form(text) != canonical_form("123")


def test_ids_match_by_text_before_they_match_by_number():
    match = match_ids(["7", "8.0", "a%20b", "x"], ["7", "7.0", "8", "%22a%20b%22"])
    assert match.found == {"7": "7", "8.0": "8", "a%20b": "%22a%20b%22"}
    assert match.rewritten == ["8.0", "a%20b"]
    assert match.note() == "2 of them written otherwise there, as '8' for '8.0'"


def test_an_ambiguous_number_joins_nothing():
    assert match_ids(["7", "007"], ["7.0"]).found == {}
    assert match_ids(["7.0"], ["7", "007"]).found == {}


def test_numeric_order_needs_whole_numbers_only():
    assert numeric_order(["10", "9", "1e+05"]) == [1, 0, 2]
    assert numeric_order(["10", "9", "nan"]) is None


@pytest.mark.parametrize(
    ("offered", "cause"),
    [
        (["a1", "a2"], "they differ in upper and lower case"),
        (["item_1", "item_2"], "some agree in their digits"),
        (["red", "blue"], "are its ids in another column?"),
    ],
)
def test_ids_of_which_none_match_are_shown_with_the_likely_cause(offered, cause):
    explained = explain_mismatch(["A1", "A2", "A3", "A4"], offered)
    assert "the dataset 'A1', 'A2', 'A3', …" in explained
    assert repr(sorted(offered)[0]) in explained
    assert cause in explained
