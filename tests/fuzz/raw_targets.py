"""Readers of raw files to fuzz, and a good file for each; nothing here imports torch."""

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from preprocess.raw.amazon_releases import load_items, load_reviews
from preprocess.raw.item_files import read_image_urls, read_item_ids, read_texts
from preprocess.raw.skipped_lines import SkippedLines
from preprocess.raw.table import ITEMS, Table
from tests.support.small_raw import raw

N_ITEMS = 9


def write_good_files(root: Path) -> None:
    """Write a valid file of every kind below a folder."""
    for release in (2014, 2023):
        folder = raw(root, release)
    shutil.copy(folder / "reviews_Small_5.json.gz", folder / "zipped.json.gz")
    lines = gzip.decompress((folder / "meta_Small.jsonl.gz").read_bytes()).splitlines()
    entries = [json.loads(line) for line in lines]
    (folder / "meta_array.json").write_text(json.dumps(entries))
    with (folder / "meta_table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, entries[0])
        writer.writeheader()
        writer.writerows(entries)
    items = range(N_ITEMS)
    tables = {
        "table.csv": "user,item,time\n" + "".join(f"u{i % 4},A{i},{1_577_836_800 + i}\n" for i in items),
        "items.csv": "item,title,picture\n" + "".join(f"A{i},thing {i},A{i}.png\n" for i in items),
        "item_text.tsv": "item_id\tasin\ttitle\n" + "".join(f"{i}\tA{i}\tthing {i}\n" for i in items),
        "item_image.tsv": "item_id\tasin\turl\n" + "".join(f"{i}\tA{i}\thttp://x/{i}\n" for i in items),
        "i_id_mapping.csv": "item_id,asin\n" + "".join(f"{i},A{i}\n" for i in items),
    }
    for name, content in tables.items():
        (folder / name).write_text(content)


def read_table(table: Table) -> int:
    """Read all columns of a table; return the number of records."""
    table.describe()
    return sum(1 for _ in table.rows(list(range(len(table.names)))))


def load_most_reviews(path: Path) -> None:
    """Read reviews, and pass over up to half of them."""
    read = load_reviews(path, SkippedLines(path, "review", 0.5))
    "".join(read.user_ids + read.item_ids).encode("ascii")


def load_most_items(path: Path) -> None:
    """Read metadata, pass over up to half of it, and check that what is left can be written, an item on a line."""
    items, _ = load_items(path, ["A", "B"], SkippedLines(path, "metadata", 0.5))
    for item in filter(None, items):
        texts = "\t".join((item.title, item.brand, item.categories, item.description, item.image))
        texts.encode()
        if texts.count("\t") != 4 or len(texts.splitlines()) > 1:
            raise AssertionError(f"not on one line: {texts!r}")


def raw_targets(root: Path) -> dict[str, tuple[Path, Callable]]:
    """Write the files below a folder; return target -> the file to fuzz, and the function that reads it."""
    write_good_files(root)
    folder = root / "raw"
    return {
        "texts": (folder / "item_text.tsv", lambda path: read_texts(path, N_ITEMS)),
        "addresses": (folder / "item_image.tsv", lambda path: read_image_urls(path.parent, N_ITEMS)),
        "asins": (folder / "i_id_mapping.csv", lambda path: read_item_ids(path.parent, N_ITEMS)),
        "own_table": (folder / "table.csv", lambda path: read_table(Table(path))),
        "own_items": (folder / "items.csv", lambda path: read_table(Table(path, ITEMS))),
        "reviews": (folder / "reviews_Small_5.json.gz", load_most_reviews),
        "reviews_json": (folder / "Small.jsonl.gz", load_most_reviews),
        "metadata": (folder / "meta_Small.json.gz", load_most_items),
        "metadata_json": (folder / "meta_Small.jsonl.gz", load_most_items),
        "metadata_array": (folder / "meta_array.json", load_most_items),
        "metadata_table": (folder / "meta_table.csv", load_most_items),
        "gzip": (folder / "zipped.json.gz", load_reviews),
    }
