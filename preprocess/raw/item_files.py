"""Read the files beside an interaction file that describe its items: texts, ASINs, URLs of pictures."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from urllib.parse import quote

from utils.data.layout import ITEM_ID_FILE

USER_ID_FILE = "u_id_mapping.csv"
USER_ID_HEADER = "user_id,reviewer_id"
ITEM_ID_HEADER = "item_id,asin"
ITEM_TEXT_FILE = "item_text.tsv"
IMAGE_URL_FILE = "item_image.tsv"
IMAGE_URL_HEADER = "item_id\tasin\turl"
ASIN = re.compile(r"[\w.:%-]+", re.ASCII)  # also reviewer ids; ASINs become file names
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")  # of pictures/ASIN.suffix; the first has precedence
MAX_ID_DIGITS = 9


def encode_id(text: str) -> str:
    """Return any id as files contain it: characters that ASINs do not have in percent-encoding, as in URLs."""
    return quote(text, safe=":").replace("~", "%7E")


def read_item_rows(path: Path, n_items: int, separator: str, header: str = "") -> Iterator[tuple[str, int, str]]:
    """Yield position (path and line), item, and the text behind the first separator, of each line below the header.

    Args:
        path: file with one line per item.
        n_items: number of items; ids are 0 to n_items - 1.
        separator: between the item and the rest of the line.
        header: expected first line; empty: any.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of another header, or of an id that is invalid or repeated.
    """
    seen = set()
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next(file, "").rstrip("\r\n")
            if header and first != header:
                raise ValueError(f"{path}: line 1: {first[:60]!r} where the header {header!r} belongs; write it there")
            for number, line in enumerate(file, 2):
                where = f"{path}: line {number}"
                text, _, rest = line.rstrip("\r\n").partition(separator)
                is_number = text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS
                if not is_number or int(text) >= n_items:
                    raise ValueError(
                        f"{where}: {text[:40]!r} is not an id from 0 to {n_items - 1}; make it from the same raw files"
                    )
                item = int(text)
                if item in seen:
                    raise ValueError(f"{where}: id {text} is there twice; remove one of them")
                seen.add(item)
                yield where, item, rest
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 ({error.reason} at byte {error.start})"
        raise ValueError(f"{path}: {problem}; save it as UTF-8, or regenerate it") from error


def read_texts(path: Path, n_items: int, columns: tuple[str, ...] = ()) -> list[str]:
    """Return the text of each item, empty where the file has none.

    Args:
        path: item_text.tsv.
        n_items: number of items; ids are 0 to n_items - 1.
        columns: names in the header of the columns to join, in this order; empty: all behind the ASIN.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of an invalid entry, or a column that is not there, or no text at all.
    """
    positions = _column_positions(path, columns)
    texts = [""] * n_items
    for _, item, rest in read_item_rows(path, n_items, "\t"):
        cells = rest.split("\t")[1:]  # behind the ASIN
        if columns:
            cells = [cells[position] for position in positions if position < len(cells)]
        texts[item] = " ".join(cells)
    if not any(text.strip() for text in texts):
        where = f"columns {', '.join(columns)}" if columns else "it"
        expected = "item id, ASIN and text, separated by tabs, below a header"
        raise ValueError(f"{path}: no text in {where}; expected are lines of {expected}")
    return texts


def text_columns(path: Path) -> list[str]:
    """Return the names of the columns of `item_text.tsv` behind the ASIN."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline().rstrip("\r\n").split("\t")[2:]


def _column_positions(path: Path, columns: tuple[str, ...]) -> list[int]:
    """Return the positions of columns among those behind the ASIN.

    Raises:
        ValueError: the header lacks one of them; names those that it has.
    """
    names = text_columns(path)
    if missing := [column for column in columns if column not in names]:
        raise ValueError(f"{path}: no column {', '.join(missing)}; its header names {', '.join(names) or 'none'}")
    return [names.index(column) for column in columns]


def read_item_ids(folder: Path, n_items: int) -> list[str]:
    """Return the ASIN of each item, which is the name of its picture; empty where no file of the folder has the item.

    Raises:
        FileNotFoundError: the folder has neither `i_id_mapping.csv` nor `item_image.tsv`.
        ValueError: naming path and line of an invalid entry, or of one that contradicts another.
    """
    rows = []
    if (folder / ITEM_ID_FILE).exists():
        rows.append(read_item_rows(folder / ITEM_ID_FILE, n_items, ",", ITEM_ID_HEADER))
    if (folder / IMAGE_URL_FILE).exists():
        urls = _read_url_rows(folder / IMAGE_URL_FILE, n_items)
        rows.append((where, item, asin) for where, item, asin, _ in urls)
    if not rows:
        raise FileNotFoundError(
            f"{folder}: neither {ITEM_ID_FILE} nor {IMAGE_URL_FILE}; python -m preprocess.amazon makes both"
        )
    asins = [""] * n_items
    item_of = {}
    for where, item, asin in chain(*rows):
        if not ASIN.fullmatch(asin):
            raise ValueError(f"{where}: {asin[:40]!r} is not an ASIN; use letters, digits and . : % _ -")
        if asins[item] not in ("", asin):
            raise ValueError(f"{where}: item {item} is {asin}, but {asins[item]} in {ITEM_ID_FILE}; regenerate both")
        if item_of.setdefault(asin, item) != item:
            raise ValueError(f"{where}: {asin} is item {item}, but item {item_of[asin]} too; correct one of them")
        asins[item] = asin
    return asins


def read_image_urls(folder: Path, n_items: int) -> dict[int, str]:
    """Return the URL of the picture of each item that has one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of an invalid entry.
    """
    path = folder / IMAGE_URL_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: missing; --fetch reads addresses from it, python -m preprocess.amazon makes it"
        )
    return {item: url for _, item, _, url in _read_url_rows(path, n_items)}


def _read_url_rows(path: Path, n_items: int) -> Iterator[tuple[str, int, str, str]]:
    """Yield position, item, ASIN and URL of each line."""
    for where, item, rest in read_item_rows(path, n_items, "\t", IMAGE_URL_HEADER):
        asin, *urls = rest.split("\t")
        if len(urls) != 1 or not urls[0].strip():
            raise ValueError(f"{where}: item id, ASIN and address are expected, separated by tabs")
        yield where, item, asin, urls[0].strip()
