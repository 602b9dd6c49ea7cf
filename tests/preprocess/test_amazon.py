"""Conversion of the three Amazon releases to a dataset."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from preprocess import amazon, features
from preprocess.raw.amazon_releases import read_objects
from preprocess.raw.interactions import k_core
from preprocess.raw.item_metadata import flatten_strings, strip_html
from tests.support.small_raw import DAY, PURCHASES, raw, write

REAL = Path(__file__).parents[3] / "shared" / "data" / "sequential" / "Beauty"


def run(root, *more):
    return amazon.main(["--dataset", "Small", "--data_dir", str(root), "--k_core", "2", *more])


def written(root):
    folder = root / "sequential" / "Small"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_files_equal_those_made_by_hand(tmp_path):
    raw(tmp_path)
    assert run(tmp_path) == 0
    files = {name: content.decode() for name, content in written(tmp_path).items()}
    # u2's A and C have one time and are ordered by ASIN; u2 buys C again on day 9; u1's second B on day 1 is a repeat
    assert files["Small.txt"] == "0 1 0 2\n1 1 0 2 2\n2 0 1 2\n3 0 1\n"
    assert files["u_id_mapping.csv"] == "user_id,reviewer_id\n0,u1\n1,u2\n2,u3\n3,u4\n"
    assert files["i_id_mapping.csv"] == "item_id,asin\n0,A\n1,B\n2,C\n"
    assert files["item_text.tsv"] == (
        "item_id\tasin\ttitle\tbrand\tcategories\tdescription\n"
        "0\tA\tA red lamp\tLux & Co\tHome, Lamps\tBright & warm .\n1\tB\tBlue 'cup'\t\tHome, Cups\t\n"
    )
    assert files["item_image.tsv"] == "item_id\tasin\turl\n0\tA\thttp://x/a.jpg\n"
    assert json.loads(files["5-core/train.json"]) == {"0": [1], "1": [1, 0], "2": [0], "3": []}
    assert json.loads(files["5-core/val.json"]) == {"0": [0], "1": [2], "2": [1], "3": [0]}
    assert json.loads(files["5-core/test.json"]) == {"0": [2], "1": [2], "2": [2], "3": [1]}
    assert files["Small_days.txt"] == "0 0 1 2\n1 0 1 1 9\n2 0 1 2\n3 0 1\n"
    assert files["skipped.tsv"] == "reason\tline\tasin\nno metadata\t\tC\n"
    statistics = json.loads(files["statistics.json"])
    found = [statistics[k] for k in ("reviews", "repeated", "users", "items", "interactions", "items_without_metadata")]
    assert found == [14, 1, 4, 3, 12, 1]
    assert statistics["density"] == 1.0


def test_all_releases_give_identical_files(tmp_path):
    results = []
    for release in (2014, 2018, 2023):
        raw(tmp_path / str(release), release)
        assert run(tmp_path / str(release)) == 0
        results.append(written(tmp_path / str(release)))
    assert len(results[0]) == 12  # held_by.txt among them
    assert results[0] == results[1] == results[2]


def test_the_order_of_lines_does_not_matter(tmp_path):
    for name, purchases in (("one", PURCHASES), ("other", PURCHASES[::-1])):
        raw(tmp_path / name, purchases=purchases)
        assert run(tmp_path / name) == 0
    assert written(tmp_path / "one") == written(tmp_path / "other")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real Beauty sequences in ../shared/data")
def test_real_beauty_is_reproduced_exactly(tmp_path):
    sequences = [line.split()[1:] for line in (REAL / "Beauty.txt").read_text().splitlines()]
    asins = [line.split("\t")[1] for line in (REAL / "item_text.tsv").read_text().splitlines()[1:]]
    rng = np.random.default_rng(0)
    lines = [
        repr({"reviewerID": f"A{user:08}", "asin": asins[int(item)], "unixReviewTime": 1_300_000_000 + DAY * day})
        for user, sequence in enumerate(sequences)
        for day, item in enumerate(sequence)
    ]
    rng.shuffle(lines)
    (tmp_path / "reviews.json").write_text("\n".join(lines) + "\n")
    write(tmp_path / "meta.json", [{"asin": asin, "title": "t"} for asin in asins], 2014)
    argv = ["--reviews", str(tmp_path / "reviews.json"), "--meta", str(tmp_path / "meta.json")]
    assert amazon.main(["--dataset", "Beauty", "--data_dir", str(tmp_path), *argv]) == 0
    folder = tmp_path / "sequential" / "Beauty"
    assert (folder / "Beauty.txt").read_bytes() == (REAL / "Beauty.txt").read_bytes()
    statistics = json.loads((folder / "statistics.json").read_text())
    assert [statistics[k] for k in ("users", "items", "interactions")] == [22_363, 12_101, 198_502]
    assert (folder / "i_id_mapping.csv").read_text().splitlines()[1:3] == ["0,7806397051", "1,9759091062"]


def test_k_core_reaches_its_fixed_point():
    """Equals removing one user or item at a time."""
    rng = np.random.default_rng(0)
    for k in (2, 3, 4):
        user, item = rng.integers(0, 30, 90), rng.integers(0, 25, 90)
        rows = list(range(90))
        while True:
            rare = [r for r in rows if min((user[rows] == user[r]).sum(), (item[rows] == item[r]).sum()) < k]
            if not rare:
                break
            rows = [
                r
                for r in rows
                if (user[r] != user[rare[0]] or (user[rows] == user[r]).sum() >= k)
                and (item[r] != item[rare[0]] or (item[rows] == item[r]).sum() >= k)
            ]
        assert k_core(user, item, k).tolist() == rows


def test_item_texts_are_read_back(tmp_path):
    raw(tmp_path)
    assert run(tmp_path) == 0
    texts = features.read_texts(tmp_path / "sequential" / "Small" / "item_text.tsv", 3)
    assert texts == ["A red lamp Lux & Co Home, Lamps Bright & warm .", "Blue 'cup'  Home, Cups ", ""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < b & c", "a < b & c"),
        ("<p class='x'>One<br/>two</p>&nbsp;three", "One two three"),
        ("<style>p {}</style>kept<script>dropped", "kept"),
        ("caf&eacute; &#39;x&#39;", "café 'x'"),
        ("a<![if x]>b<![endif]--> c", "ab c"),
        ("<![foo[x]]>kept <![ too>", "kept"),
        ("tab\there\u2028line", "tab here line"),
        ("", ""),
    ],
)
def test_strip_html(text, expected):
    assert strip_html(text) == expected


def test_strings_are_flattened_at_any_depth():
    deep = ["a", ["b", 3, {"c": "d"}], "e"]
    for _ in range(5000):
        deep = [deep]
    assert flatten_strings(deep) == ["a", "b", "e"]


def test_code_in_a_literal_is_never_executed(tmp_path, capsys):
    folder = raw(tmp_path)
    trace = tmp_path / "trace"
    with gzip.open(folder / "meta_Small.json.gz", "at") as file:
        file.write("{'asin': 'C', 'title': __import__('os').mkdir(" + repr(str(trace)) + ")}\n")
    assert run(tmp_path, "--max_skipped", "0") == 2
    captured = capsys.readouterr()
    assert "meta_Small.json.gz: line 4: not a Python literal" in captured.err
    assert captured.err.count("\n") == 1
    assert not trace.exists()
    assert not (tmp_path / "sequential").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--k_core", "6"), "no user and item with 6 interactions each"),
        (("--reviews", "nowhere.json"), "nowhere.json missing"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(tmp_path, flags, message, capsys):
    raw(tmp_path)
    assert run(tmp_path, *flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "sequential").exists()


def test_second_line_of_an_item_is_counted_and_listed(tmp_path):
    folder = raw(tmp_path)
    with gzip.open(folder / "meta_Small.json.gz", "ab") as file:
        file.write(b"{'asin': 'A', 'title': 'other'}\n")
    assert run(tmp_path) == 0
    files = written(tmp_path)
    assert files["skipped.tsv"].decode() == (
        "reason\tline\tasin\na further line for the same item\t4\tA\nno metadata\t\tC\n"
    )
    assert json.loads(files["statistics.json"])["skipped_metadata_lines"] == 1
    assert b"other" not in files["item_text.tsv"]


def test_files_are_replaced_only_with_overwrite(tmp_path, capsys):
    raw(tmp_path)
    assert run(tmp_path) == 0
    before = written(tmp_path)
    assert run(tmp_path) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert written(tmp_path) == before
    assert run(tmp_path, "--overwrite", "--k_core", "3") == 0
    assert written(tmp_path)["Small.txt"].decode() == "0 1 0 2\n1 1 0 2 2\n2 0 1 2\n"


def test_later_literals_may_look_like_json(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{\'a\': 1}\n\n{"b": None}\n{"c": 2}\n')
    assert list(read_objects(path)) == [(1, {"a": 1}), (3, {"b": None}), (4, {"c": 2})]


@pytest.mark.parametrize("value", ["18446744073709551616", "-9223372036854775809", "1" * 300])
@pytest.mark.parametrize("field", ["asin", "unixReviewTime"])
def test_integers_beyond_64_bits_are_shown_as_they_are(tmp_path, capsys, field, value):
    folder = raw(tmp_path, 2018)
    with (folder / "Small_5.json").open("a") as file:
        entry = {"reviewerID": "u1", "asin": "A", "unixReviewTime": 0} | {field: int(value)}
        file.write(json.dumps(entry) + "\n")
    assert run(tmp_path, "--max_skipped", "0") == 2
    assert f"line 15: {field} {value:.60} is no" in capsys.readouterr().err
