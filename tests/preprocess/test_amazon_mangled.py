"""Raw Amazon files that other programs have mangled: times, ids, lists, several releases in one file, wrong files."""

import csv
import io
import json

import pytest

from preprocess.raw.item_metadata import describe
from tests.preprocess.test_amazon_oddities import CLEAN, META, metadata, refused, result, reviews, run, skipped, write
from tests.support.small_raw import DAY

DAYS = "0 0 1 2\n1 0 1 1 9\n2 0 1 2\n3 0 1\n"
START = 1_577_836_800  # 2020-01-01, in seconds


def dated(release, per_second, also_per_second=None):
    """Return reviews of 2020, their times in one unit, or every second one in another."""
    name = "timestamp" if release == 2023 else "unixReviewTime"
    entries = reviews(release)
    for number, entry in enumerate(entries):
        day = entry[name] // (DAY * (1000 if release == 2023 else 1))
        factor = per_second if number % 2 or also_per_second is None else also_per_second
        entry[name] = (START + day * DAY) * factor
    return entries


def table(entries, names, to_text=str):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([to_text(entry[name]) for name in names] for entry in entries)
    return text.getvalue().encode()


# ---------------------------------------------------------------- times


@pytest.mark.parametrize("release", [2018, 2023])
@pytest.mark.parametrize("units", [(10**3,), (10**6,), (10**9,), (1, 10**3), (10**3, 1), (10**3, 10**6), (1, 10**9)])
def test_times_in_other_units_are_read_also_beside_usual_ones(tmp_path, release, units):
    write(tmp_path, release, dated(release, *units))
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    assert result(tmp_path, "Small_days.txt") == DAYS
    assert skipped(tmp_path, "review") == []


@pytest.mark.parametrize("release", [2018, 2023])
@pytest.mark.parametrize("time", [0, 1, 86_400])
def test_times_of_1970_beside_later_ones_are_passed_over(tmp_path, release, time):
    usual = dated(release, 1 if release == 2018 else 1000)
    name = "timestamp" if release == 2023 else "unixReviewTime"
    write(tmp_path, release, [*usual[:3], usual[1] | {name: time}, *usual[3:]])
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    assert skipped(tmp_path, "review") == [("a time before 1980 beside later ones", "4")]


@pytest.mark.parametrize(
    ("text", "is_rounded"), [("{:.5E}", True), ("{:.0e}", True), ("{:.8e}", True), ("{:.9e}", False)]
)
def test_rounded_times_are_refused(tmp_path, capsys, text, is_rounded):
    usual = dated(2018, 1)
    for entry in usual:
        entry["unixReviewTime"] = text.format(entry["unixReviewTime"])
    write(tmp_path, 2018, table(usual, ["reviewerID", "asin", "unixReviewTime"]))
    if is_rounded:
        error = refused(tmp_path, capsys)
        assert "line 2: unixReviewTime '" in error
        assert "14 unixReviewTime is rounded" in error
    else:
        assert run(tmp_path) == 0
        assert result(tmp_path, "Small_days.txt") == DAYS


# ---------------------------------------------------------------- ids


def test_items_that_differ_in_case_only_are_refused(tmp_path, capsys):
    usual = reviews(2018)
    usual[3]["asin"] = usual[3]["asin"].lower()
    write(tmp_path, 2018, usual)
    assert "items 'c' and 'C' differ in case only; write ids in capitals" in refused(tmp_path, capsys)


@pytest.mark.parametrize("change", [str.lower, " {}".format, "ASIN-{}".format])
def test_metadata_with_other_ids_shows_them(tmp_path, capsys, change):
    items = [item | {"asin": change(item["asin"])} for item in metadata(2018)]
    write(tmp_path, 2018, items=items)
    error = refused(tmp_path, capsys)
    assert f"with ids written as in the reviews (its first is {change('A')!r}, theirs 'A')" in error


def test_empty_metadata_is_called_that(tmp_path, capsys):
    write(tmp_path, 2018, items=b"")
    assert "meta_Small.json: no metadata in it; download it again" in refused(tmp_path, capsys)


# ---------------------------------------------------------------- files in place of others


@pytest.mark.parametrize("release", [2014, 2018, 2023])
def test_reviews_in_place_of_metadata_are_refused(tmp_path, capsys, release):
    entries = reviews(release)
    for entry in entries:
        entry["title"] = "Five stars"
    folder = write(tmp_path, release, entries)
    error = refused(tmp_path, capsys, "--meta", str(next(f for f in folder.glob("*") if f.name != META[release])))
    assert "14 of 14 lines cannot be used (14 a review, not metadata)" in error


def test_metadata_that_was_joined_to_reviews_is_read(tmp_path):
    write(tmp_path, 2018, items=[item | {"reviewerID": "u1"} for item in metadata(2018)])
    assert run(tmp_path) == 0
    assert "0\tA\tLamp" in result(tmp_path, "item_text.tsv")


@pytest.mark.parametrize("order", [(2018, 2023), (2023, 2018)])
def test_metadata_of_two_releases_in_one_file_is_read(tmp_path, order):
    first, second = order
    write(tmp_path, 2018, items=[metadata(first)[0], metadata(second)[1]])
    assert run(tmp_path) == 0
    assert "0\tA\tLamp\tLux\t" in result(tmp_path, "item_text.tsv")
    assert "\tB\tCup\t" in result(tmp_path, "item_text.tsv")
    assert skipped(tmp_path, "metadata") == []


def test_a_part_of_a_split_with_histories_is_refused(tmp_path, capsys):
    entries = [entry | {"history": "A B"} for entry in reviews(2023)]
    write(tmp_path, 2023, table(entries, ["user_id", "parent_asin", "rating", "timestamp", "history"]))
    assert "a part of a split, with a column history; take the file with all reviews" in refused(tmp_path, capsys)


@pytest.mark.parametrize("names", ["reviewerID,ASIN,unixReviewTime,reviewText", '"User_ID","Parent_ASIN"'])
def test_a_table_with_names_in_capitals_is_called_a_table(tmp_path, capsys, names):
    write(tmp_path, 2018, f'{names}\nu1,A,"[1, 2]",7\n'.encode())
    assert "a table without asin or parent_asin in its first line" in refused(tmp_path, capsys)


# ---------------------------------------------------------------- lists and lines of other programs


@pytest.mark.parametrize(
    ("join", "end"), [("}{", "}"), ("},\n{", "},\n"), ("}\r{", "}\r"), ("}, {", "}"), ("},\r\n{", "}")]
)
def test_objects_without_a_line_each_are_read(tmp_path, join, end):
    def joined(entries):
        return (join.join(json.dumps(entry)[1:-1] for entry in entries).join(("{", end))).encode()

    write(tmp_path, 2018, joined(reviews(2018)), joined(metadata(2018)))
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    assert "0\tA\tLamp" in result(tmp_path, "item_text.tsv")


@pytest.mark.parametrize("content", [b'[["u1", "A", 7]]', b'["u1", "A", 7]', b"7"])
def test_a_whole_line_without_fields_is_not_called_cut_short(tmp_path, capsys, content):
    write(tmp_path, 2018, content)
    error = refused(tmp_path, capsys)
    assert "(1 no mapping of field names)" in error
    assert "cut short" not in error


@pytest.mark.parametrize(
    ("pictures", "url"),
    [
        ("['http://x/a.jpg'\n 'http://x/b.jpg']", "http://x/a.jpg"),
        ("['http://x/a.jpg' \"http://x/b's.jpg\"]", "http://x/a.jpg"),
        ("[None 'http://x/b.jpg']", "http://x/b.jpg"),
        ("array(['http://x/a.jpg'], dtype=object)", ""),  # no list
        ("[array(['http://x/a.jpg', None], dtype=object)]", "http://x/a.jpg"),
        ("['http://x/a.jpg', 'http://x/b.jpg']", "http://x/a.jpg"),
    ],
)
def test_lists_as_numpy_prints_them_are_read(tmp_path, pictures, url):
    items = [{"asin": "A", "title": "array(['Lamp'", "category": "['Home'\n 'Cups']", "imageURL": pictures}]
    write(tmp_path, 2018, items=table(items, list(items[0])))
    assert run(tmp_path) == 0
    assert "0\tA\tarray(['Lamp'\t\tHome, Cups\t" in result(tmp_path, "item_text.tsv")
    assert result(tmp_path, "item_image.tsv").splitlines()[1:] == ([f"0\tA\t{url}"] if url else [])


def test_pictures_of_2023_as_pandas_writes_them_are_read(tmp_path):
    first = "{'hi_res': array([None, 'http://x/h2'], dtype=object), 'large': array(['http://x/l1' 'http://x/l2'])}"
    second = "[{'hi_res': None, 'large': 'http://x/l3'}\n {'hi_res': 'http://x/h4', 'large': None}]"
    items = [{"parent_asin": asin, "title": asin, "images": cell} for asin, cell in (("A", first), ("B", second))]
    write(tmp_path, 2023, items=table(items, list(items[0])))
    assert run(tmp_path) == 0
    assert result(tmp_path, "item_image.tsv").splitlines()[1:] == ["0\tA\thttp://x/l1", "1\tB\thttp://x/l3"]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/a.jpg", "s3://x/a.jpg", "http://", "http:// x", "x://y"]
)
def test_only_addresses_of_the_web_are_pictures(url):
    assert describe({"imageURLHighRes": [url], "imageURL": ["HTTPS://x/a b", "https://x/a.jpg"]}, "brand").image == (
        "https://x/a.jpg"
    )
