"""Input files that are missing, damaged or written in another way, with every program that reads them.

A damaged file is one error line with its path and a remedy, and nothing is written. Harmless differences, such as the
line ends of Windows, change nothing.
"""

import gzip
import os
import re

import pytest

from preprocess.raw.amazon_releases import load_reviews, read_items
from preprocess.raw.csv_table import ColumnSettings, read_csv_items
from preprocess.raw.item_files import read_image_urls, read_item_ids, read_texts
from preprocess.raw.summary import Summary
from preprocess.raw.table_interactions import read_csv_interactions
from tests.support.bad_files import (
    ANY_FILE,
    DATA,
    GRAPH,
    ITEMS,
    META,
    RAW,
    REVIEWS,
    SEQUENCE,
    TABLE,
    TXT,
    copy_template,
    error_line,
    fetch,
    graph,
    image,
    raw_2014,
    raw_2018,
    raw_2023,
    sequence,
    table,
    text,
    train,
    write_everything,
)
from tests.support.small_data import N_ITEMS
from utils.data.interactions import Interactions


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return write_everything(tmp_path_factory.mktemp("template"))


@pytest.fixture
def place(template, tmp_path):
    return copy_template(template, tmp_path / "place")


READERS = [  # program, folder, file, and whether the first half of the file is a valid file
    *((program, DATA, TXT, True) for program in (train, graph, sequence, text)),
    (train, DATA, GRAPH, False),
    (train, DATA, SEQUENCE, False),
    (graph, DATA, "image_feat.npy", False),
    (graph, DATA, "text_feat.pt", False),
    (graph, DATA, "tags_feat.npz", False),
    (text, DATA, "item_text.tsv", True),
    (image, DATA, "i_id_mapping.csv", True),
    (fetch, DATA, "item_image.tsv", True),
    *((table, RAW, name, True) for name in (TABLE, ITEMS)),
    *((raw_2014, RAW, name, False) for name in (REVIEWS, META)),
    *((raw_2018, RAW, name, False) for name in ("Small_5.json", "meta_Small.json")),
    *((raw_2023, RAW, name, False) for name in ("Small.jsonl.gz", "meta_Small.jsonl.gz")),
]
# Programs that read another file instead if this one is missing
OPTIONAL = {
    *(("graph", name) for name in ("image_feat.npy", "text_feat.pt", "tags_feat.npz")),
    ("image", "i_id_mapping.csv"),
}
CASES = [
    pytest.param(program, folder, name, way, id=f"{program.__name__}-{name}-{way}")
    for program, folder, name, half_is_valid in READERS
    for way in ANY_FILE
    if not (way == "cut" and half_is_valid) and not (way == "missing" and (program.__name__, name) in OPTIONAL)
]


@pytest.mark.parametrize(("program", "folder", "name", "way"), CASES)
def test_a_damaged_file_is_one_error_line_and_nothing_is_written(place, capfd, program, folder, name, way):
    damage, pattern = ANY_FILE[way]
    damage(place / folder / name)
    if way == "unreadable" and os.access(place / folder / name, os.R_OK):
        pytest.skip("root reads every file")
    line = error_line(place, capfd, *program(place))
    assert name in line
    assert str(place / folder) in line
    assert re.search(pattern, line), line


def review_columns(path):
    read = load_reviews(path)
    return [read.user.tolist(), read.item.tolist(), read.time.tolist(), read.user_ids, read.item_ids]


BOM = b"\xef\xbb\xbf"
HARMLESS = {
    "line ends of Windows": lambda text: text.replace(b"\n", b"\r\n"),
    "byte order mark": lambda text: BOM + text,
    "no line end at the end": lambda text: text.rstrip(b"\n"),
}
TEXT_FILES = {
    "interactions": (DATA / TXT, lambda path: Interactions(path, 50).items.tolist()),
    "item_text.tsv": (DATA / "item_text.tsv", lambda path: read_texts(path, N_ITEMS)),
    "item_image.tsv": (DATA / "item_image.tsv", lambda path: read_image_urls(path.parent, N_ITEMS)),
    "i_id_mapping.csv": (DATA / "i_id_mapping.csv", lambda path: read_item_ids(path.parent, N_ITEMS)),
    "CSV interactions": (
        RAW / TABLE,
        lambda path: read_csv_interactions(path, ColumnSettings(), Summary()).item.tolist(),
    ),
    "CSV items": (RAW / ITEMS, lambda path: [*read_csv_items(path, ColumnSettings(), True, []).items.items()]),
    "JSON reviews": (RAW / "Small_5.json", review_columns),
    "JSON metadata": (RAW / "meta_Small.json", lambda path: [*read_items(path, "AB")]),
    "zipped literals": (RAW / REVIEWS, review_columns),
    "zipped metadata": (RAW / META, lambda path: [*read_items(path, "AB")]),
    "zipped JSON": (RAW / "Small.jsonl.gz", review_columns),
}


@pytest.mark.parametrize("change", HARMLESS)
@pytest.mark.parametrize("file", TEXT_FILES)
def test_harmless_differences_of_a_text_file_change_nothing(place, file, change):
    relative_path, read = TEXT_FILES[file]
    path = place / relative_path
    expected = read(path)
    old = path.read_bytes()
    zipped = path.suffix == ".gz"
    new = HARMLESS[change](gzip.decompress(old) if zipped else old)
    path.write_bytes(gzip.compress(new) if zipped else new)
    assert path.read_bytes() != old
    assert expected != []
    assert read(path) == expected


def test_compression_is_recognised_by_content_not_by_name(place):  # browsers decompress but keep the name
    path = place / RAW / REVIEWS
    expected = review_columns(path)
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert review_columns(path) == expected
