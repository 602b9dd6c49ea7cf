"""Raw Amazon files as people have them: odd lines, fields of every release, several lines per item, other forms."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile
from urllib.parse import unquote

import pytest

from preprocess import amazon
from preprocess.raw.item_metadata import CODE, describe, strip_html
from tests.support.small_raw import DAY, PURCHASES, meta, review

REVIEWS = {2014: "reviews_Small_5.json", 2018: "Small_5.json", 2023: "Small.jsonl"}
META = {2014: "meta_Small.json", 2018: "meta_Small.json", 2023: "meta_Small.jsonl"}
RELEASES = pytest.mark.parametrize("release", [2014, 2018, 2023])
CLEAN = "0 1 0 2\n1 1 0 2 2\n2 0 1 2\n3 0 1\n"  # interactions of PURCHASES
FOLDER = "sequential/Small"


def run(root, *flags):
    return amazon.main(["--dataset", "Small", "--data_dir", str(root), "--k_core", "2", *flags])


def result(root, name):
    return (root / FOLDER / name).read_text(encoding="utf-8")


def reviews(release, purchases=PURCHASES):
    return [review(release, *purchase) for purchase in purchases]


def metadata(release):
    return [
        meta(release, "A", "Lamp", "Lux", ["Home"], "Bright", "http://x/a.jpg"),
        meta(release, "B", "Cup", "", ["Home"], "", ""),
    ]


def to_lines(entries, release=2018):
    """Return entries as lines; those that are bytes stay as they are."""
    to_text = repr if release == 2014 else json.dumps
    lines = [entry if isinstance(entry, bytes) else to_text(entry).encode() for entry in entries]
    return b"".join(line + b"\n" for line in lines)


def write(root, release, purchases=None, items=None):
    """Write reviews and metadata, those that are None without oddities; entries may be lines, or the whole content."""
    folder = root / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name, entries, usual in ((REVIEWS, purchases, reviews), (META, items, metadata)):
        entries = usual(release) if entries is None else entries
        content = entries if isinstance(entries, bytes) else to_lines(entries, release)
        (folder / name[release]).write_bytes(content)
    return folder


def skipped(root, kind):
    """Return reason and line of what was passed over."""
    rows = [line.split("\t") for line in result(root, "skipped.tsv").splitlines()[1:]]
    return [(reason.removeprefix(f"{kind}: "), line) for reason, line, _ in rows if reason.startswith(f"{kind}: ")]


def refused(root, capsys, *flags):
    """Return the error line of a run that writes nothing."""
    capsys.readouterr()
    assert run(root, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (root / "sequential").exists()
    return error


# ---------------------------------------------------------------- lines that cannot be used


def odd_reviews(release):
    """Return name -> a line that cannot be used, and a word of the reason."""
    good = review(release, "u1", "A", 7)
    user, item, time = {2023: ("user_id", "parent_asin", "timestamp")}.get(
        release, ("reviewerID", "asin", "unixReviewTime")
    )

    def without(name):
        return {other: value for other, value in good.items() if other != name}

    return {
        "negative time": (good | {time: -25_920_000}, "before 1970"),
        "time beyond all calendars": (good | {time: 10**14}, "after 2248"),
        "time beyond 64 bits": (good | {time: 10**40}, "after 2248"),
        "no time": (without(time), f"no {time}"),
        "null time": (good | {time: None}, f"no {time}"),
        "word as time": (good | {time: "soon"}, "int"),
        "truth as time": (good | {time: True}, "int"),
        "fraction as time": (good | {time: 0.5}, "int"),
        "list as time": (good | {time: [1]}, "int"),
        "no item": (without(item), f"no {item}"),
        "null item": (good | {item: None}, f"no {item}"),
        "blank item": (good | {item: " "}, f"no {item}"),
        "item called nan": (good | {item: "nan"}, f"no {item}"),
        "number as item": (good | {item: 7}, f"{item} is not of type str"),
        "path as item": (good | {item: "../../A"}, "not an id"),
        "no user": (without(user), f"no {user}"),
        "null user": (good | {user: None}, f"no {user}"),
        "list as user": (good | {user: ["u1"]}, f"{user} is not of type str"),
        "half a character as user": (good | {user: "\ud800"}, "not an id"),
        "other fields": ({"title": "x", "price": 3}, "none of the fields of a review"),
        "list": (["u1", "A", 7], "no mapping"),
        "number": (b"7", "no mapping"),
        "half a line": (to_lines([good], release)[:40], "not "),
        "not UTF-8": (to_lines([good], release)[:-1].replace(b"u1", b"\xff"), "not UTF-8"),
        "noise": (b"\x00\x01\xfe", "not "),
        "page": (b"</html>", "not "),
        "bracket": (b"{", "not "),
    }


@RELEASES
@pytest.mark.parametrize("name", odd_reviews(2018))
def test_a_review_that_cannot_be_used_is_passed_over_and_listed(tmp_path, capsys, release, name):
    line, word = odd_reviews(release)[name]
    usual = reviews(release)
    write(tmp_path, release, [*usual[:4], line, *usual[4:]])
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    ((reason, number),) = skipped(tmp_path, "review")
    assert word in reason
    assert number == "5"
    assert json.loads(result(tmp_path, "statistics.json"))["skipped_review_lines"] == 1
    assert json.loads(result(tmp_path, "statistics.json"))["skipped_metadata_lines"] == 0
    assert f"passed over: review: {reason}" in capsys.readouterr().out


@RELEASES
@pytest.mark.parametrize("name", ["no item", "null user", "list", "half a line", "bracket", "other fields"])
def test_the_first_line_may_be_one_of_them(tmp_path, release, name):
    write(tmp_path, release, [odd_reviews(release)[name][0], *reviews(release)])
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    assert [number for _, number in skipped(tmp_path, "review")] == ["1"]


@RELEASES
def test_a_last_line_that_is_cut_short_is_called_that(tmp_path, release):
    content = to_lines([*reviews(release), review(release, "u1", "A", 7)], release)
    write(tmp_path, release, content[:-9])
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    assert skipped(tmp_path, "review") == [("cut short at the end of the file", "15")]


@RELEASES
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("gone", "no "),
        (None, "no "),
        ("", "no "),
        ("NaN", "no "),
        (float("nan"), "is not of type str"),
        (31852, "is not of type str"),
        (["A"], "is not of type str"),
        (b"{'asin': 'A', \"parent", "not "),
        (b"</html>", "not "),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_metadata_that_cannot_be_used_is_passed_over_and_listed(tmp_path, release, change, word, place):
    if isinstance(change, bytes):
        line = change
    else:
        item = "parent_asin" if release == 2023 else "asin"
        line = meta(release, "B", "wrong", "", [], "", "") | {item: change}
        if change == "gone":
            del line[item]
    items = metadata(release)
    items.insert(place, line)
    write(tmp_path, release, items=items)
    assert run(tmp_path) == 0
    ((reason, number),) = skipped(tmp_path, "metadata")
    assert word in reason or "no " in reason
    assert number == str(place + 1)
    assert "wrong" not in result(tmp_path, "item_text.tsv")
    assert "0\tA\tLamp" in result(tmp_path, "item_text.tsv")
    assert json.loads(result(tmp_path, "statistics.json"))["skipped_metadata_lines"] == 1


def test_reasons_are_counted(tmp_path, capsys):
    usual = reviews(2023) * 100
    odd = odd_reviews(2023)
    for name, count in (("negative time", 5), ("null item", 3), ("half a line", 2)):
        for copy in range(count):
            usual.insert(100 * copy + 7, odd[name][0])
    write(tmp_path, 2023, usual)
    assert run(tmp_path) == 0
    shown = capsys.readouterr().out
    for reason, count in (("timestamp before 1970 or after 2248", 5), ("no parent_asin", 3), ("not JSON", 2)):
        (line,) = [line for line in shown.splitlines() if f"passed over: review: {reason}" in line]
        assert f" {count} " in line
        assert len([found for found, _ in skipped(tmp_path, "review") if found == reason]) == count
    assert result(tmp_path, "Small.txt") == CLEAN


@pytest.mark.parametrize(
    ("flags", "n_allowed"), [((), 14), (("--max_skipped", "0.05"), 73), (("--max_skipped", "0"), 0)]
)
def test_more_than_max_skipped_end_the_run(tmp_path, capsys, flags, n_allowed):
    usual = reviews(2018) * 100
    odd = [odd_reviews(2018)["negative time"][0]] * n_allowed
    write(tmp_path, 2018, usual + odd)
    assert run(tmp_path, "--overwrite", *flags) == 0
    other = tmp_path / "other"
    write(other, 2018, [*usual, *odd, odd_reviews(2018)["null item"][0]])
    error = refused(other, capsys, *flags)
    if n_allowed:
        assert f"{n_allowed + 1} of {1400 + n_allowed + 1:,} lines cannot be used ({n_allowed} unixReviewTime" in error
        assert "1 no asin" in error
        flags = error.split("allow as many with ")[1].split()
        assert run(other, *flags) == 0
    else:
        assert "line 1401: no asin" in error


@pytest.mark.parametrize("value", ["-0.1", "1", "nan", "much"])
def test_max_skipped_is_a_share(tmp_path, value):
    write(tmp_path, 2018)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--max_skipped", value)
    assert stop.value.code == 2


def test_a_file_without_one_line_that_can_be_used_is_refused_soon(tmp_path, capsys):
    folder = write(tmp_path, 2018, b"x y\n" * 5000)
    assert "1,000 of 1,000 lines cannot be used (1,000 not JSON or a Python literal)" in refused(tmp_path, capsys)
    write(tmp_path, 2018)
    error = refused(tmp_path, capsys, "--reviews", str(folder / META[2018]))  # metadata as reviews
    assert "2 of 2 lines cannot be used (2 none of the fields of a review); take a release file" in error


# ---------------------------------------------------------------- times and ids


@RELEASES
@pytest.mark.parametrize("form", ["{}", " {} ", "{}.0", "+{}"])
def test_times_may_be_text(tmp_path, release, form):
    usual = reviews(release)
    for entry in usual:
        name = "timestamp" if release == 2023 else "unixReviewTime"
        entry[name] = form.format(entry[name])
    write(tmp_path, release, usual)
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    assert result(tmp_path, "Small_days.txt") == "0 0 1 2\n1 0 1 1 9\n2 0 1 2\n3 0 1\n"
    assert skipped(tmp_path, "review") == []


def test_times_may_be_dates(tmp_path):
    usual = reviews(2023)
    for entry in usual:
        entry["timestamp"] = f"2020-01-{1 + entry['timestamp'] // (1000 * DAY):02}T23:59:59.999Z"
    write(tmp_path, 2023, usual)
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    assert result(tmp_path, "Small_days.txt") == "0 0 1 2\n1 0 1 1 9\n2 0 1 2\n3 0 1\n"


def test_seconds_where_milliseconds_belong_are_recognised(tmp_path, capsys):
    usual = reviews(2023)
    for entry in usual:
        entry["timestamp"] = 1_577_836_800 + entry["timestamp"] // 1000
    write(tmp_path, 2023, usual)
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small_days.txt") == "0 0 1 2\n1 0 1 1 9\n2 0 1 2\n3 0 1\n"
    assert "2020-01-01 to 2020-01-10" in capsys.readouterr().out


@RELEASES
@pytest.mark.parametrize("user", ["#oc-R1USER", "A 1", "A/1", "ü", "A%201", "u,1", "😀", "\t1"])
def test_user_ids_are_kept_exactly(tmp_path, release, user):
    purchases = [(user if name == "u4" else name, *more) for name, *more in PURCHASES]
    write(tmp_path, release, reviews(release, purchases))
    assert run(tmp_path) == 0
    rows = [line.split(",") for line in result(tmp_path, "u_id_mapping.csv").splitlines()[1:]]
    assert sorted(unquote(name) for _, name in rows) == sorted(["u1", "u2", "u3", user])
    assert sorted(line.split(" ", 1)[1] for line in result(tmp_path, "Small.txt").splitlines()) == sorted(
        line.split(" ", 1)[1] for line in CLEAN.splitlines()
    )


# ---------------------------------------------------------------- texts and pictures


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"imUrl": "http://x/a.jpg"}, "http://x/a.jpg"),
        ({"imUrl": None, "imageURL": []}, ""),
        ({"imageURL": ["http://x/s.jpg"], "imageURLHighRes": ["http://x/l.jpg"]}, "http://x/l.jpg"),
        ({"imageURL": ["http://x/s.jpg"], "imageURLHighRes": []}, "http://x/s.jpg"),
        ({"image": ["http://x/i.jpg", "http://x/j.jpg"]}, "http://x/i.jpg"),
        ({"images": [{"hi_res": None, "large": "http://x/l"}, {"hi_res": "http://x/h"}]}, "http://x/l"),
        ({"images": [{"hi_res": "http://x/h", "large": "http://x/l"}]}, "http://x/h"),
        ({"images": [{"hi_res": None, "large": None, "thumb": "http://x/t"}]}, "http://x/t"),
        ({"images": [{"hi_res": "None", "large": "nan", "thumb": ""}]}, ""),
        ({"images": {"hi_res": [None, "http://x/h2"], "large": ["http://x/l1", "http://x/l2"]}}, "http://x/l1"),
        ({"images": {"hi_res": ["http://x/h1"], "large": ["http://x/l1"], "variant": ["MAIN"]}}, "http://x/h1"),
        ({"images": {"hi_res": [None], "large": [None, "http://x/l2"]}}, "http://x/l2"),
        ({"images": {"hi_res": [], "large": [], "thumb": []}}, ""),
        ({"images": {"hi_res": None, "large": "http://x/l"}}, "http://x/l"),
        ({"images": ["http://x/a"]}, "http://x/a"),
        ({"images": "none"}, ""),
        ({"imUrl": "data:image/gif;base64,R0l", "imageURL": ["http://x/a"]}, "http://x/a"),
    ],
)
def test_pictures_of_all_releases_are_found(entry, expected):
    assert describe(entry, "brand").image == expected


NAN = float("nan")


@pytest.mark.parametrize(
    ("entry", "title", "description"),
    [
        ({"title": "T", "description": ["d", "e"], "features": ["f"]}, "T", "d e"),
        ({"title": None, "description": [], "features": ["f", "g"]}, "", "f g"),
        ({"title": "", "feature": ["f"]}, "", "f"),
        ({"title": "T", "description": ["", " "], "features": ["f"]}, "T", "f"),
        ({"title": "T", "description": NAN, "features": ["nan"]}, "T", ""),
        ({"title": NAN, "description": "d"}, "", "d"),
        ({"title": "nan", "description": ["None"]}, "", ""),
        ({"title": ["T", "U"], "description": [["d"], "e"]}, "T U", "d e"),
        ({"title": {"x": "y"}, "description": 7}, "", ""),
        ({"title": "half \ud800 a character", "description": "\ud83d\ude00"}, "half \ufffd a character", "😀"),
    ],
)
def test_texts_of_all_releases_are_found(entry, title, description):
    item = describe(entry, "brand")
    assert (item.title, item.description) == (title, description)


JUNK = [
    "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();",
    "(function(w,d){w.x=1;})(window)",
    "function  show(a) { return a; }",
    "#nav_flyout_anchor { display: inline-block; padding: 0 } Lamp",
    "var x = 3; x",
]


@pytest.mark.parametrize("title", JUNK)
def test_code_in_place_of_a_title_is_none(title):
    item = describe({"title": title, "brand": title, "description": "d"}, "brand")
    assert (item.title, item.brand, item.description) == ("", "", "d")


@pytest.mark.parametrize(
    "title",
    [
        "Function (keys) and form: {2nd edition}",
        "Var = 3",
        "Get time; save time",
        "JavaScript: the function()",
        "{Set of 3: red, blue}",
        "I <3 U; 4: {ever}",
        "Nan's kitchen",
    ],
)
def test_other_titles_stay(title):
    assert describe({"title": title}, "brand").title == strip_html(title) != ""


@pytest.mark.parametrize(
    "beginning", ["{", "{a:", "{a:b;", "var x =", "var x =1", "function f(", "getTime", "function "]
)
def test_code_is_searched_in_linear_time(beginning):
    assert not CODE.search(beginning * 200_000)  # of megabytes: quadratic time would take hours


@RELEASES
@pytest.mark.parametrize("first", ["empty", "junk", "no title", "no picture", "shorter", "other item between"])
@pytest.mark.parametrize("turned", [False, True])
def test_of_several_lines_the_one_that_says_most_is_used(tmp_path, release, first, turned):
    best = meta(release, "A", "Lamp", "Lux", ["Home"], "Bright and warm", "http://x/a.jpg")
    poorer = {
        "empty": meta(release, "A", "", "", [], "", ""),
        "junk": meta(release, "A", JUNK[0], "Lux", ["Home"], "Bright and warm", "http://x/a.jpg"),
        "no title": meta(release, "A", "", "Lux", ["Home"], "Bright and warm " * 9, "http://x/b.jpg"),
        "no picture": meta(release, "A", "Lamp Lamp Lamp Lamp Lamp", "Lux", ["Home"], "", ""),
        "shorter": meta(release, "A", "Lam", "Lux", ["Home"], "Bright and warm", "http://x/b.jpg"),
        "other item between": meta(release, "A", "Lamp", "", [], "", ""),
    }[first]
    lines = [poorer, meta(release, "B", "Cup", "", [], "", ""), best]
    write(tmp_path, release, items=lines[::-1] if turned else lines)
    assert run(tmp_path) == 0
    assert "0\tA\tLamp\tLux\tHome\tBright and warm\n" in result(tmp_path, "item_text.tsv")
    assert result(tmp_path, "item_image.tsv") == "item_id\tasin\turl\n0\tA\thttp://x/a.jpg\n"
    assert f"a further line for the same item\t{3 if turned else 1}\tA\n" in result(tmp_path, "skipped.tsv")


@RELEASES
def test_titles_that_are_nan_are_none(tmp_path, capsys, release):
    write(tmp_path, release, items=[entry | {"title": NAN} for entry in metadata(release)])
    assert run(tmp_path) == 0
    assert "0\tA\t\tLux\tHome\tBright\n" in result(tmp_path, "item_text.tsv")
    shown = capsys.readouterr().out
    assert re.search(r"with a title +0 of 3$", shown, re.MULTILINE)


def test_of_equal_lines_the_first_is_used(tmp_path, capsys):
    lines = [meta(2018, "A", title, "", [], "", "") for title in ("Lamp", "Bulb", "Torc")]
    write(tmp_path, 2018, items=lines)
    assert run(tmp_path) == 0
    assert "0\tA\tLamp\t" in result(tmp_path, "item_text.tsv")
    assert result(tmp_path, "skipped.tsv").count("a further line for the same item\t") == 2
    shown = capsys.readouterr().out
    assert [line.split()[-3:] for line in shown.splitlines() if "with a title" in line] == [["1", "of", "3"]]


# ---------------------------------------------------------------- files of another form


def tarred(content, name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped(content, *names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def table(entries, separator=",", header=True):
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, delimiter=separator)
    if header:
        writer.writeheader()
    writer.writerows(entries)
    return text.getvalue().encode()


CONTAINERS = {
    "gzip": lambda entries: gzip.compress(to_lines(entries)),
    "two gzip members": lambda entries: gzip.compress(to_lines(entries[:2])) + gzip.compress(to_lines(entries[2:])),
    "bzip2": lambda entries: bz2.compress(to_lines(entries)),
    "xz": lambda entries: lzma.compress(to_lines(entries)),
    "zip": lambda entries: zipped(to_lines(entries), "Small.jsonl"),
    "zip in a folder": lambda entries: zipped(to_lines(entries), "data/Small.jsonl", "__MACOSX/._x", "data/.x"),
    "zip of gzip": lambda entries: zipped(gzip.compress(to_lines(entries)), "Small.json.gz"),
    "array": lambda entries: json.dumps(entries).encode(),
    "indented array": lambda entries: b"\xef\xbb\xbf" + json.dumps(entries, indent=1).encode() + b"\n",
    "array with a line per entry": lambda entries: b"[\n" + b",\n".join(to_lines(entries).splitlines()) + b"\n]\n",
    "gzipped array": lambda entries: gzip.compress(json.dumps(entries).encode()),
    "indented objects": lambda entries: "\n".join(json.dumps(entry, indent=1) for entry in entries).encode(),
    "CSV": table,
    "CSV with tabs": lambda entries: table(entries, "\t"),
    "CSV with semicolons": lambda entries: b"\xef\xbb\xbf" + table(entries, ";"),
    "zipped CSV": lambda entries: zipped(table(entries), "x.csv"),
}


@pytest.mark.parametrize("release", [2018, 2023])
@pytest.mark.parametrize("container", CONTAINERS)
def test_other_containers_are_read(tmp_path, release, container):
    wrap = CONTAINERS[container]
    write(tmp_path / "usual", release)
    write(tmp_path / "other", release, wrap(reviews(release)), wrap(metadata(release)))
    assert run(tmp_path / "usual") == 0
    assert run(tmp_path / "other") == 0
    for name in ("Small.txt", "item_text.tsv", "item_image.tsv", "statistics.json", "skipped.tsv"):
        assert result(tmp_path / "other", name) == result(tmp_path / "usual", name)


@pytest.mark.parametrize("container", ["array", "indented objects", "CSV"])
def test_odd_entries_of_other_containers_are_passed_over_too(tmp_path, container):
    usual = reviews(2023)
    odd = [odd_reviews(2023)[name][0] for name in ("negative time", "null item", "word as time")]
    write(tmp_path, 2023, CONTAINERS[container]([*usual[:3], *odd, *usual[3:]]))
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    first = 5 if container == "CSV" else 4  # below the header
    assert [number for _, number in skipped(tmp_path, "review")] == [str(first + i) for i in range(3)]


def test_rows_of_another_length_are_passed_over(tmp_path):
    lines = table(reviews(2018)).splitlines(keepends=True)
    write(tmp_path, 2018, b"".join([*lines[:3], b"u1,A\n", b'u1,"A"x,1,2,3\n', *lines[3:]]))
    assert run(tmp_path) == 0
    assert result(tmp_path, "Small.txt") == CLEAN
    assert [number for _, number in skipped(tmp_path, "review")] == ["4", "5"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(b"x", "a.csv", "b.csv"), "an archive of 2 files (a.csv, b.csv); unpack it"),
        (zipped(to_lines(reviews(2018)), "a")[:60], "damaged"),
        (tarred(to_lines(reviews(2018)), "x.json"), "an archive; unpack it"),
        (b"PAR1" + b"\x00" * 99, "a table of Parquet; write it as JSON lines"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed by zstd; decompress it"),
        (b"<!DOCTYPE html>\n<html>", "a web page in HTML; download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (to_lines(reviews(2018)).decode().encode("utf-16"), "UTF-16; save it as UTF-8"),
        (table(reviews(2018), header=False), "a table without asin or parent_asin in its first line; python -m prep"),
        (b"A1,B1,5.0,1\nA1,B2,5.0,2\n", "a table without asin or parent_asin in its first line; python -m preproces"),
        (table(reviews(2018)).replace(b"\nu1,", b'\n"u1,', 1), "line 3: unexpected end of data; correct the quotation"),
        (json.dumps(reviews(2018)).encode()[:-1], "cut short at entry 15, the JSON array does not end"),
        (json.dumps(reviews(2018)).encode()[:-9], "entry 14: not JSON, or cut short"),
        (json.dumps(reviews(2018)).encode() + b"\n[]", "more follows the JSON array"),
        (repr(reviews(2018)).encode(), "entry 1: not JSON, or cut short"),
        (gzip.compress(to_lines(reviews(2018)))[:-20], "damaged"),
        (gzip.compress(to_lines(reviews(2018) * 500), 0)[:-20], "damaged after line 6"),
        (bz2.compress(to_lines(reviews(2018)))[:-20], "damaged"),
        (lzma.compress(to_lines(reviews(2018)))[:-20], "damaged"),
        (b"", "no review in it"),
        (b"[]", "no review in it"),
        (b"asin,reviewerID,unixReviewTime\n", "no review in it"),
        (
            b'asin,"reviewerID"x,unixReviewTime\nA,u1,1\n',
            "line 1: ',' expected",
        ),
        (b'asin,"reviewerID,unixReviewTime\nA,u1,1\n', "line 1: unexpected end of data; correct"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # compressed files contain the time
)
def test_what_is_not_read_is_named_with_the_way_out(tmp_path, capsys, content, message):
    write(tmp_path, 2018, content)
    error = refused(tmp_path, capsys)
    assert message in error
    assert REVIEWS[2018] in error
