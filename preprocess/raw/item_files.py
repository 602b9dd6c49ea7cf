"""The files beside an interaction file that say something of each item: texts, ASINs, addresses of pictures."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

USER_ID_FILE, USER_ID_HEADER = "u_id_mapping.csv", "user_id,reviewer_id"
ITEM_ID_FILE, ITEM_ID_HEADER = "i_id_mapping.csv", "item_id,asin"
ITEM_TEXT_FILE = "item_text.tsv"
IMAGE_URL_FILE, IMAGE_URL_HEADER = "item_image.tsv", "item_id\tasin\turl"
ASIN = re.compile(r"[\w.:%-]+", re.ASCII)  # and reviewer ids; becomes a file name


class UninformativeModalityError(ValueError):
    """A modality in which nothing tells items apart."""


def encode_id(text: str) -> str:
    """Any id as files hold it: what ASINs do not have in percent-encoding, as in addresses."""
    return quote(text, safe=":").replace("~", "%7E")


def read_item_rows(path: Path, n_items: int, separator: str, header: str = "") -> Iterator[tuple[str, int, str]]:
    """Every line below the header: where it is (path and number), the item, and the text behind the first separator.

    Args:
        header: what the first line must say; any header where it is empty.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of another header, or of an id that is no number, beyond the items, or there
            twice.
    """
    seen = set()
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next(file, "").rstrip("\r\n")
            if header and first != header:
                raise ValueError(f"{path}: line 1: {first[:60]!r} where the header {header!r} belongs; write it there")
            for number, line in enumerate(file, 2):
                where, (item, _, rest) = f"{path}: line {number}", line.rstrip("\r\n").partition(separator)
                if not (item.isascii() and item.isdigit() and len(item) < 10 and int(item) < n_items):
                    raise ValueError(
                        f"{where}: {item[:40]!r} is not an id from 0 to {n_items - 1}; make it from the same raw files"
                    )
                if int(item) in seen:
                    raise ValueError(f"{where}: id {item} is there twice; remove one of them")
                seen.add(int(item))
                yield where, int(item), rest
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8, or make it again"
        ) from error


def read_texts(path: Path, n_items: int) -> list[str]:
    """Text of every item, empty where the file has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of what is wrong, or that there is no text at all.
    """
    texts = [""] * n_items
    for _, item, rest in read_item_rows(path, n_items, "\t"):
        texts[item] = rest.partition("\t")[2].replace("\t", " ")
    if not any(text.strip() for text in texts):
        raise ValueError(
            f"{path}: no text in it; expected are lines of item id, ASIN and text, separated by tabs, below a header"
        )
    return texts


def read_item_ids(folder: Path, n_items: int) -> list[str]:
    """ASIN of every item, of which its picture has its name; empty where neither file of the folder has the item.

    Raises:
        FileNotFoundError: neither file.
        ValueError: naming path and line of what is wrong.
    """
    asins, item_of = [""] * n_items, {}
    names = [name for name in (ITEM_ID_FILE, IMAGE_URL_FILE) if (folder / name).exists()]
    if not names:
        raise FileNotFoundError(
            f"{folder}: neither {ITEM_ID_FILE} nor {IMAGE_URL_FILE}; python -m preprocess.amazon makes both"
        )
    for name in names:
        path = folder / name
        pairs = (
            read_item_rows(path, n_items, ",", ITEM_ID_HEADER)
            if name == ITEM_ID_FILE
            else _read_image_urls(path, n_items)
        )
        for where, item, asin, *_ in pairs:
            if not ASIN.fullmatch(asin):
                raise ValueError(f"{where}: {asin[:40]!r} is not an ASIN: letters, digits and . : % _ - are read")
            if asins[item] not in ("", asin):
                raise ValueError(f"{where}: item {item} is {asin}, but {asins[item]} in {ITEM_ID_FILE}; make both anew")
            if item_of.setdefault(asin, item) != item:
                raise ValueError(f"{where}: {asin} is item {item}, but item {item_of[asin]} too; correct one of them")
            asins[item] = asin
    return asins


def _read_image_urls(path: Path, n_items: int) -> Iterator[tuple[str, int, str, str]]:
    """Where, item, ASIN, address."""
    for where, item, rest in read_item_rows(path, n_items, "\t", IMAGE_URL_HEADER):
        asin, *address = rest.split("\t")
        if len(address) != 1 or not address[0].strip():
            raise ValueError(f"{where}: item id, ASIN and address are expected, separated by tabs")
        yield where, item, asin, address[0].strip()


def read_image_urls(folder: Path, n_items: int) -> dict[int, str]:
    """Address of the picture of every item that has one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of what is wrong.
    """
    path = folder / IMAGE_URL_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: missing; --fetch reads addresses from it, python -m preprocess.amazon makes it"
        )
    return {item: address for _, item, _, address in _read_image_urls(path, n_items)}
