"""Files as people have them: each folder of `../shared/cases`, run by its own command, has the outcome that it should.

A folder holds the files and `cmd`, whose CASE is the folder itself and OUT an empty data folder.
"""

import gzip
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest

from preprocess.raw.item_files import encode_id

ROOT = Path(__file__).parents[2]
CASES = ROOT.parent / "shared" / "cases"


@dataclass
class Outcome:
    """What the commands of a case did."""

    status: int  # of the last command
    out: str  # of all commands
    err: str
    data: Path  # the data folder

    def text(self, name: str) -> str:
        """Return the content of a file of the dataset X."""
        return (self.data / "sequential" / "X" / name).read_text(encoding="utf-8")

    def sequences(self) -> dict[str, list[str]]:
        """Return the items of each user, oldest first, by the ids of the raw files in percent-encoding."""
        users, items = (self._ids(f"{kind}_id_mapping.csv") for kind in "ui")
        rows = [line.split() for line in self.text("X.txt").splitlines()]
        return {users[user]: [items[item] for item in row] for user, *row in rows}

    def titles(self) -> dict[str, str]:
        """Return the title of each item that has a text."""
        rows = [line.split("\t") for line in self.text("item_text.tsv").splitlines()[1:]]
        return {row[1]: row[2] for row in rows}

    def _ids(self, name: str) -> dict[str, str]:
        return dict(line.split(",") for line in self.text(name).splitlines()[1:])


def refused(outcome: Outcome, pattern: str) -> None:
    """Check that the last command ended with status 2 and one line that matches a pattern."""
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert re.search(pattern, outcome.err), outcome.err


# ---------------------------------------------------------------- what each case should come to, one part per kind


def in_order(rows: Iterable[tuple[str, str, str]]) -> dict[str, list[str]]:
    """Return the items of each user by time, from user, item and time of each line."""
    histories = {}
    for user, item, _ in sorted(rows, key=lambda row: float(row[2])):
        histories.setdefault(encode_id(user), []).append(encode_id(item))
    return histories


def cells(file: str, separator: str, columns: tuple[int, ...] = (0, 1, 2), n_above: int = 1) -> list[tuple[str, ...]]:
    """Return columns of a plain table of a case, without the lines above and without quotation marks around fields."""
    content = (CASES / file).read_bytes()
    if file.endswith(".gz"):
        content = gzip.decompress(content)
    if file.endswith(".zip"):
        archive = zipfile.ZipFile(io.BytesIO(content))
        content = archive.read(archive.namelist()[0])
    rows = [line.split(separator) for line in content.decode("latin-1").splitlines()[n_above:]]
    return [tuple(row[column].strip('"') for column in columns) for row in rows]


def reads(file: str, separator: str, columns: tuple[int, ...] = (0, 1, 2), n_above: int = 1) -> Callable:
    """Return a check that all lines of a case's table are read, and what was recognised is printed first."""

    def check(outcome: Outcome) -> None:
        assert outcome.status == 0, outcome.err
        assert outcome.sequences() == in_order(cells(file, separator, columns, n_above))
        assert outcome.out.startswith(f"{CASES / file}: ")

    return check


def reads_titles(interactions: str, titles: dict[str, str]) -> Callable:
    """Return a check that all lines of a case's table, and the titles in its other file, are read."""

    def check(outcome: Outcome) -> None:
        separator = {".csv": ",", ".tsv": "\t"}[Path(interactions).suffix]
        if interactions.startswith("D20"):
            separator = ";"
        reads(interactions, separator)(outcome)
        assert outcome.titles() == titles

    return check


def read_quoted_tabs(outcome: Outcome) -> None:
    rows = [(user, item.replace('""', '"'), time) for user, item, time in cells("D23_pandas_tsv_quotes/a.tsv", "\t")]
    assert outcome.sequences() == in_order(rows)
    assert outcome.titles()["0%22%20screen"] == "Monitor of 0 inches"


def read_objects(outcome: Outcome) -> None:
    lines = (CASES / "D21_yelp_jsonl" / "review.json").read_text().splitlines()
    entries = sorted(map(json.loads, lines), key=lambda entry: entry["date"])
    rows = [(entry["user_id"], entry["business_id"], str(n)) for n, entry in enumerate(entries)]
    assert outcome.sequences() == in_order(rows)


def read_long_descriptions(outcome: Outcome) -> None:
    reads("D46_long_description_tsv/a.tsv", "\t")(outcome)
    texts = [line.split("\t")[5] for line in outcome.text("item_text.tsv").splitlines()[1:]]
    assert max(map(len, texts)) > 131_072


SHAPE: dict[str, Callable[[Outcome], None]] = {
    "D01_ml1m_dat": reads("D01_ml1m_dat/ratings.dat", "::", (0, 1, 3), 0),
    "D02_ml100k_udata": reads("D02_ml100k_udata/u.data", "\t", (0, 1, 3), 0),
    "D03_amazon_ratings_csv": reads("D03_amazon_ratings_csv/ratings_Beauty.csv", ",", (0, 1, 3), 0),
    "D06_ml1m_movies_latin1": reads_titles(
        "D06_ml1m_movies_latin1/r.csv", {str(n + 1): f"Cité des enfants {n}, La (1995)" for n in range(7)}
    ),
    "D06b_ml100k_uitem": reads_titles("D06b_ml100k_uitem/r.csv", {str(n + 1): f"Toy {n} (1995)" for n in range(7)}),
    "D11_excel_sep_line": reads("D11_excel_sep_line/a.csv", ";", n_above=2),
    "D17_csv_gz": reads("D17_csv_gz/a.csv.gz", ","),
    "D18_csv_zip": reads("D18_csv_zip/a.zip", ","),
    "D20_bx_books_escaped": reads_titles(
        "D20_bx_books_escaped/a.csv",
        {f"019515344{n}": f'Adventures Continue With the Real "J. Peterman {n}"' for n in range(7)},
    ),
    "D21_yelp_jsonl": read_objects,
    "D23_pandas_tsv_quotes": read_quoted_tabs,
    "D35_pipe": reads("D35_pipe/a.csv", "|"),
    "D36_spaces": reads("D36_spaces/a.txt", " "),
    "D37_R_row_names": reads("D37_R_row_names/a.csv", ",", (1, 2, 3)),
    "D38b_trailing_only_rows": reads("D38b_trailing_only_rows/a.csv", ";"),
    "D42_parquet": lambda outcome: refused(outcome, "in the format Parquet.*(save it as CSV|pip install)"),
    "D46_long_description_tsv": read_long_descriptions,
}


def passed_over(n_lines: int, reason: str) -> Callable[[Outcome], None]:
    """Return a check that the other lines were read, and users are u1, u2, … or numbers from 17850."""

    def check(outcome: Outcome) -> None:
        assert outcome.status == 0
        assert re.search(rf"passed over: {reason} +{n_lines} ", outcome.out)
        sequences = outcome.sequences()
        assert sum(map(len, sequences.values())) == 30 - n_lines
        assert all(re.fullmatch(r"u\d|1785\d", user) for user in sequences)

    return check


def ascending(outcome: Outcome) -> None:
    """Check that user u1 bought 0 to 4 in this order, and user u2 what comes after it."""
    assert outcome.status == 0
    sequences = outcome.sequences()
    assert sequences["u1"] == list("01234")
    assert sequences["u2"] in (list("12345"), list("01234"))


def warned_of_lost_times(outcome: Outcome) -> None:
    assert outcome.status == 0
    shown = " ".join(outcome.out.split())
    assert "warning: 30 of 30 times are in scientific notation with fewer digits than the number has" in shown
    assert "100% of a user's neighbouring interactions have the same time; their order is that of the lines" in shown


def exact_beside_a_float(outcome: Outcome) -> None:
    ascending(outcome)
    assert "1 of 31 times are in scientific notation" in " ".join(outcome.out.split())


def titles_of_float_ids(outcome: Outcome) -> None:
    assert outcome.status == 0
    assert outcome.titles() == {str(100 + item): f"Lamp number {item}" for item in range(7)}


VALUES: dict[str, Callable[[Outcome], None]] = {
    "D09_mmhcl_inter_no_time": lambda outcome: refused(outcome, "no column time .*--order_of_lines"),
    "D10_diginetica_NA": lambda outcome: refused(outcome, "no user in 30 of 30 lines.*'NA' 30.*--user"),
    "D12b_excel_serial_decimal_comma": ascending,
    "D13_ddmmyyyy_integers": ascending,
    "D14_scientific_times": warned_of_lost_times,
    "D15_float_ids_vs_int": titles_of_float_ids,
    "D24b_nanoseconds_one_float": exact_beside_a_float,
    "D29_nan_ids": passed_over(6, "no user"),
    "D60b_online_retail_missing_customers": passed_over(6, "no user"),
}


def float_ids_in_one_file_only(outcome: Outcome) -> None:
    """Check ids that are 100 in the item file and 100.0 in the interactions."""
    assert outcome.status == 0
    assert list(outcome.titles().values()) == [f"Lamp number {n}" for n in range(7)]
    assert "7 of 7" in outcome.out


def features_in_the_order_of_numbers(outcome: Outcome) -> None:
    """Check that row i of the features is item i of the other project."""
    assert outcome.status == 0
    assert outcome.text("i_id_mapping.csv").split()[1:] == [f"{n},{n}" for n in range(12)]
    assert re.search(r"ok +image_feat.npy +12 x 4\n", outcome.out)
    assert "no image_ids.txt: row i is item i of i_id_mapping.csv" in outcome.out


def another_name_of_the_item_column(outcome: Outcome) -> None:
    """Check an item file that calls its ids id."""
    assert outcome.status == 0
    assert outcome.titles() == {str(n): f'The "{n}" Ärtists' for n in range(7)}


ITEM_SIDE: dict[str, Callable[[Outcome], None]] = {
    "D08_mmrec_feature_order": features_in_the_order_of_numbers,
    "D15_float_ids_vs_int": float_ids_in_one_file_only,
    "D28_lastfm_hetrec": another_name_of_the_item_column,
    "D43b_chinese_titles_one_shared_word": lambda outcome: refused(outcome, "not written: all rows are equal"),
}


def raw_files(
    n_interactions: int = 30, title: str = "", text: str = "", picture: str = "", skipped: tuple[str, ...] = ()
) -> Callable[[Outcome], None]:
    """Return the check of 6 users and 7 items whose first one has this title, text behind it, and picture.

    Args:
        n_interactions: of all users.
        title: title of the first item.
        text: what follows it in `item_text.tsv`.
        picture: URL of its picture.
        skipped: beginning of each line of `skipped.tsv`.
    """

    def check(outcome: Outcome) -> None:
        assert outcome.status == 0, outcome.err
        sequences = outcome.sequences()
        assert len(sequences) == 6
        assert sum(map(len, sequences.values())) == n_interactions
        first_item = outcome.text("item_text.tsv").splitlines()[1].split("\t", 2)[2]
        assert first_item == f"{title}\t{text}"
        pictures = outcome.text("item_image.tsv").splitlines()[1:]
        assert len(pictures) == 7
        assert pictures[0].endswith(f"\t{picture}")
        rows = outcome.text("skipped.tsv").splitlines()[1:]
        assert len(rows) == len(skipped)
        for row, beginning in zip(rows, skipped, strict=True):
            assert row.startswith(beginning)
            if row.startswith(("review", "metadata")):
                assert f"passed over: {row.split(chr(9))[0]}" in outcome.out

    return check


def readable_ids(outcome: Outcome) -> None:
    raw_files(30, "T 0", "\tBeauty, Make Up\tit's é 0", "http://ecx.images-amazon.com/images/I/0.jpg")(outcome)
    assert sorted(map(unquote, outcome.sequences())) == [f"#oc-RA{user}USER" for user in range(6)]


LEATHER = {
    "title": "Leather Conditioner 0",
    "text": "Howard\t\t",
    "picture": "https://m.media-amazon.com/images/I/0.jpg",
}
CLEAR = {"text": "Idea Village\t\tLoud 'N Clear 0™ x", "picture": "https://x/0.jpg"}
AMAZON: dict[str, Callable[[Outcome], None]] = {
    "A01_negative_timestamps": raw_files(
        **LEATHER, skipped=tuple(f"review: timestamp before 1970 or after 2248\t{line}\t" for line in (4, 32))
    ),
    "A02_images_dict_of_lists": raw_files(**LEATHER),
    "A03_meta_csv": raw_files(**LEATHER),
    "A04_first_without_parent": raw_files(29, **LEATHER, skipped=("review: no parent_asin\t1\t",)),
    "A04b_later_parent_null": raw_files(**LEATHER, skipped=("review: no parent_asin\t5\t",)),
    "A05b_2018_first_line_junk_title": raw_files(
        title="Clear 0", **CLEAR, skipped=("a further line for the same item\t1\tB010",)
    ),
    "A06_2018_meta_without_asin": raw_files(title="Clear 0", **CLEAR, skipped=("metadata: no asin\t3\t",)),
    "A08_oc_user_ids": readable_ids,
    "A12_zip": raw_files(**LEATHER),
    "A13_json_array": raw_files(**LEATHER),
    "A15_time_string": raw_files(title="Clear 0", **CLEAR),
    "A16_nan_title": raw_files(**CLEAR | {"text": "\t\tLoud 'N Clear 0™ x"}),
    "A21_text_in_features_only": raw_files(**LEATHER | {"title": "", "text": "\t\tFeature text 0 Waterproof"}),
    "A23_duplicate_meta_second_has_more": raw_files(**LEATHER, skipped=("a further line for the same item\t1\tB000",)),
}

EXPECTED = SHAPE | VALUES | ITEM_SIDE | AMAZON


# ---------------------------------------------------------------- running them


def run(line: str, capsys) -> tuple[int, str, str]:
    """Run one command and return status, standard output and standard error; a program of ours in this process."""
    words = shlex.split(line)
    if words[:2] == ["python", "-m"] and not {"|", ";"} & set(line):
        capsys.readouterr()
        try:
            status = importlib.import_module(words[2]).main(words[3:])
        except SystemExit as stop:  # an invalid command line
            status = stop.code
        return status, *capsys.readouterr()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize("name", EXPECTED)
def test_case_has_the_outcome_that_it_should(tmp_path, capsys, name):
    case = CASES / name
    data = tmp_path / "data"
    data.mkdir()
    if name.startswith("A"):
        raw = shutil.ignore_patterns("cmd")
        shutil.copytree(case, data / "raw", ignore=raw)
    commands = (case / "cmd").read_text().replace("CASE", str(case)).replace("OUT", str(data))
    outcome = Outcome(0, "", "", data)
    for line in commands.splitlines():
        outcome.status, out, err = run(line, capsys)
        outcome.out += out
        outcome.err += err
    EXPECTED[name](outcome)
