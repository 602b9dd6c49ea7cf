"""Every reader of data and every way any file goes wrong: one line with path, place and remedy, and nothing written.

What does no harm, such as another kind of line end, is read as if it were not there.
"""

import gzip
import os
import re

import pytest

from preprocess.raw.amazon_releases import read_items, read_reviews
from preprocess.raw.csv_table import ColumnSettings, read_csv_interactions, read_csv_items
from preprocess.raw.item_files import read_image_urls, read_item_ids, read_texts
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


READERS = [  # program, folder, file, and whether half of the file is still a file of its kind
    *((program, DATA, TXT, True) for program in (train, graph, sequence, text)),
    (train, DATA, GRAPH, False),
    (train, DATA, SEQUENCE, False),
    (graph, DATA, "image_feat.npy", False),
    (graph, DATA, "text_feat.pt", False),
    (text, DATA, "item_text.tsv", True),
    (image, DATA, "i_id_mapping.csv", True),
    (fetch, DATA, "item_image.tsv", True),
    *((table, RAW, name, True) for name in (TABLE, ITEMS)),
    *((raw_2014, RAW, name, False) for name in (REVIEWS, META)),
    *((raw_2018, RAW, name, False) for name in ("Small_5.json", "meta_Small.json")),
    *((raw_2023, RAW, name, False) for name in ("Small.jsonl.gz", "meta_Small.jsonl.gz")),
]
LEGAL = {("graph", "image_feat.npy"), ("graph", "text_feat.pt"), ("image", "i_id_mapping.csv")}  # another file will do
EVERY = [
    pytest.param(program, folder, name, way, id=f"{program.__name__}-{name}-{way}")
    for program, folder, name, survives in READERS
    for way in ANY_FILE
    if not (survives and way == "cut") and not (way == "missing" and (program.__name__, name) in LEGAL)
]


@pytest.mark.parametrize(("program", "folder", "name", "way"), EVERY)
def test_any_file(place, capfd, program, folder, name, way):
    damage, pattern = ANY_FILE[way]
    damage(place / folder / name)
    if way == "unreadable" and os.access(place / folder / name, os.R_OK):
        pytest.skip("root reads every file")
    line = error_line(place, capfd, *program(place))
    assert name in line and str(place / folder) in line, line
    assert re.search(pattern, line), line


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
    "table of one's own": (RAW / TABLE, lambda path: read_csv_interactions(path, ColumnSettings()).item.tolist()),
    "items of one's own": (RAW / ITEMS, lambda path: [*read_csv_items(path, ColumnSettings())[0].items()]),
    "JSON reviews": (RAW / "Small_5.json", lambda path: [*read_reviews(path)]),
    "JSON metadata": (RAW / "meta_Small.json", lambda path: [*read_items(path, "AB")]),
    "zipped literals": (RAW / REVIEWS, lambda path: [*read_reviews(path)]),
    "zipped metadata": (RAW / META, lambda path: [*read_items(path, "AB")]),
    "zipped JSON": (RAW / "Small.jsonl.gz", lambda path: [*read_reviews(path)]),
}


@pytest.mark.parametrize("change", HARMLESS)
@pytest.mark.parametrize("file", TEXT_FILES)
def test_what_does_no_harm(place, file, change):
    path, read = place / TEXT_FILES[file][0], TEXT_FILES[file][1]
    expected, old = read(path), path.read_bytes()
    zipped = path.suffix == ".gz"
    new = HARMLESS[change](gzip.decompress(old) if zipped else old)
    path.write_bytes(gzip.compress(new) if zipped else new)
    assert path.read_bytes() != old
    assert read(path) == expected != []


def test_gzipped_or_not_by_content(place):
    """A file that a browser has unpacked keeps its name."""
    path = place / RAW / REVIEWS
    expected = [*read_reviews(path)]
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert [*read_reviews(path)] == expected
