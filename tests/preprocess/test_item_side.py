"""What is joined to items: the order of ids, texts and pictures of other tables, and how many items they match."""

import pytest

from preprocess import amazon
from tests.support.small_raw import raw
from tests.support.small_tables import convert, join, mapping, purchases, row, table_of, titles
from utils.data.ids import canonical_form, likely_cause, match_ids, numeric_order

# ---------------------------------------------------------------- order of ids


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([str(n) for n in range(12, 0, -1)], [str(n) for n in range(1, 13)]),
        (["10", "-2", "007", "8", "-10"], ["-10", "-2", "007", "8", "10"]),
        (["3.0", "20.0", "100.0"], ["3", "20", "100"]),
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


@pytest.mark.parametrize(
    "text", ["123", "123.0", "00123", " 123 ", '"123"', "%22123%22", "+123", "123,0", "1.23e2", "1.23E+02"]
)
def test_one_number_written_in_many_ways_is_one_id(text):
    assert canonical_form(text) == canonical_form("123")


@pytest.mark.parametrize(
    "text", ["123.5", "1234", "-123", "123a", "1.234567e+02", "12 3", "", "123.000", "123,000", "１２３"]
)
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
        (["item_1", "item_2"], "they agree in their digits alone"),
        (["red", "blue"], "take the file about the same items"),
    ],
)
def test_the_likely_cause_of_no_match_is_named(offered, cause):
    assert likely_cause(["A1", "A2", "A3", "A4"], offered).startswith(cause)


# ---------------------------------------------------------------- texts and pictures of another table


@pytest.mark.parametrize(
    "written",
    ["{}.0", "{:04}", "' {} '", '"""{}"""', "{}.00", "+{}"],
    ids=["float", "zeros", "blanks", "quotes", "two", "sign"],
)
def test_numbers_written_otherwise_in_the_item_file_are_the_same_items(tmp_path, written, capsys):
    assert join(tmp_path, table_of([written.format(n) for n in range(1, 13)])) == 0
    assert titles(tmp_path) == {str(n): f"Lamp {n}" for n in range(1, 11)}
    out = capsys.readouterr().out
    assert row(out, "titles") == "titles 10 of 10"
    assert row(out, "items in items.csv").startswith(
        "items in items.csv 10 of 10 10 of them written otherwise there, as"
    )


def test_numbers_written_otherwise_in_the_interactions_are_the_same_items(tmp_path):
    assert join(tmp_path, table_of(range(1, 13)), purchases([f"{n}.0" for n in range(1, 8)])) == 0
    assert list(titles(tmp_path).values()) == [f"Lamp {n}" for n in range(1, 8)]


def test_an_item_file_without_any_of_the_items_is_refused(tmp_path, capsys):
    assert join(tmp_path, table_of([f"sku{n}" for n in range(1, 13)])) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "items.csv: none of its 12 items is one of the 10 of the interactions" in error
    assert "it has 'sku1', 'sku10', 'sku11', …, the dataset '1', '2', '3', …" in error
    assert "they agree in their digits alone" in error
    assert not (tmp_path / "data").exists()


def test_few_items_with_a_text_are_warned_of_and_the_others_counted(tmp_path, capsys):
    items = [str(n) for n in range(1, 31)]
    one = "item,title\n5,Lamp\n,Nothing\n5,Lamp again\n6,\n7,NaN\n"
    assert join(tmp_path, one, purchases(items, per_user=30)) == 0
    out = capsys.readouterr().out
    assert row(out, "titles") == "titles 1 of 30"
    assert "warning: titles: only 1 of 30 items" in out
    assert row(out, "passed over: lines of items.csv without").endswith(" 1")
    assert (
        row(out, "passed over: further lines of items.csv")
        == "passed over: further lines of items.csv 1 about an item above"
    )
    assert titles(tmp_path) == {"5": "Lamp"}


@pytest.mark.parametrize(
    ("ids", "remark"),
    [
        (range(2, 12), "it counts from 2 to 11, the dataset from 1 to 10: are they the same items?"),
        (range(10), "it counts from 0 to 9, the dataset from 1 to 10: are they the same items?"),
        (range(1, 11), ""),
        (range(12), ""),  # more items than the dataset has
    ],
)
def test_items_counted_from_another_number_are_warned_of(tmp_path, ids, remark, capsys):
    assert join(tmp_path, table_of(ids)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert ("are they the same items?" in out) == bool(remark)
    assert remark in out


def test_titles_in_the_table_of_interactions_are_counted(tmp_path, capsys):
    lines = purchases(["1", "2", "3"]).splitlines()
    table = [lines[0] + ",title", *(line + ("," if ",2," in line else ",Lamp") for line in lines[1:])]
    assert convert(tmp_path, "\n".join(table)) == 0
    assert row(capsys.readouterr().out, "titles") == "titles 2 of 3"
    assert convert(tmp_path, "\n".join(lines)) == 0
    assert "--title, --text and --picture name them" in row(capsys.readouterr().out, "titles, texts, pictures")


@pytest.mark.parametrize("name", ["id", "ID", "item_id"])
def test_an_item_file_may_call_its_ids_id(tmp_path, name):
    assert join(tmp_path, table_of(range(1, 13), f"{name},title"), None, "--item", "item") == 0
    assert titles(tmp_path)["3"] == "Lamp 3"


def test_any_column_of_an_item_file_may_be_its_ids_by_a_flag(tmp_path, capsys):
    lines = "\n".join(["id,Code,what", *(f"{n},{13 - n},Lamp {n}" for n in range(1, 13))]) + "\n"
    assert join(tmp_path, lines, None, "--item_id_column", "code", "--title", "what") == 0
    assert titles(tmp_path)["3"] == "Lamp 10"
    assert join(tmp_path, lines, None, "--item_id_column", "sku", "--title", "what") == 2
    assert "no column sku; --item_id_column takes one of the header's columns" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        convert(tmp_path, purchases(["1", "2"]), "--item_id_column", "code")
    assert "--item_id_column: needs --item_file" in capsys.readouterr().err


def test_the_column_that_has_the_ids_is_named(tmp_path, capsys):
    lines = "\n".join(["nr,code,title", *(f"x{n},{n}.0,Lamp {n}" for n in range(1, 13))]) + "\n"
    assert join(tmp_path, lines) == 2
    advice = "its column code has 10 of the 10 items: --item_id_column code"
    error = capsys.readouterr().err
    assert "no column item_id or itemid or item" in error
    assert advice in error
    assert join(tmp_path, lines, None, "--item_id_column", "nr") == 2
    assert advice in capsys.readouterr().err
    assert join(tmp_path, lines, None, "--item_id_column", "code") == 0


def test_an_item_file_with_nothing_to_join_is_refused(tmp_path, capsys):
    assert join(tmp_path, "item,name\n1,Lamp\n") == 2
    assert "--title, --text or --picture takes one of its columns (item, name)" in capsys.readouterr().err
