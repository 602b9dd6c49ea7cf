"""Read item metadata from tables (`preprocess.raw.table`), whose columns are found by their names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from preprocess.raw.item_files import IMAGE_SUFFIXES, encode_id
from preprocess.raw.item_metadata import Item, strip_html
from preprocess.raw.table import Table

DEFAULT_NAMES = {  # of the columns, case-insensitive, where no flag gives another
    "user": ("user", "user_id", "userid"),
    "item": ("item", "item_id", "itemid"),
    "time": ("time", "timestamp", "date"),
    "title": ("title", "item_title", "movie_title"),
    "picture": ("picture", "image"),
}
URL = re.compile(r"https?://\S+")
MAX_PICTURE_ID_BYTES = 255 - len(max(IMAGE_SUFFIXES, key=len) + ".tmp")  # of a file name


@dataclass(frozen=True)
class ColumnSettings:
    """Names of the columns in the header."""

    # columns
    user: str = ""  # column of users; empty: user, user_id or userid
    item: str = ""  # column of items; empty, or absent from ITEM_FILE: item, item_id or itemid
    time: str = ""  # column of times; empty: time, timestamp or date
    title: str = ""  # column of items' titles, optional; empty: title, item_title or movie_title
    text: tuple[str, ...] = ()  # further columns of text about items, comma-separated
    picture: str = ""  # column of items' pictures, URLs or files beside FILE, optional; empty: picture or image


class LocalPicture(NamedTuple):
    """A picture file that a table names."""

    file: Path
    origin: str  # path, line and value in the table, for error messages


def read_csv_items(path: Path, columns: ColumnSettings) -> tuple[dict[str, Item], dict[str, LocalPicture]]:
    """Read the metadata of each item from the first line that has any.

    Returns:
        Metadata per encoded item id, and the pictures that are files and not URLs.

    Raises:
        FileNotFoundError, ValueError: naming file, line and value.
    """
    table = Table(path)
    given_item = (columns.item,) if columns.item else ()
    selected = [
        table.require("item", given_item + DEFAULT_NAMES["item"]),
        _find_optional(table, "title", columns.title),
        _find_optional(table, "picture", columns.picture),
        *(table.require("text", (name,)) for name in columns.text),
    ]
    items = {}
    pictures = {}
    for where, item, title, picture, *texts in table.rows(selected):
        item_id = encode_id(item)
        if item_id in items or not any((title, picture, *texts)):
            continue
        if picture and len(item_id) > MAX_PICTURE_ID_BYTES:
            problem = (
                f"{item[:40]!r} has {len(item_id)} characters in percent-encoding, "
                f"{MAX_PICTURE_ID_BYTES} fit a picture's name"
            )
            raise ValueError(f"{where}: {problem}; shorten it, or remove the picture")
        is_url = URL.fullmatch(picture) is not None
        if picture and not is_url:
            pictures[item_id] = LocalPicture(path.parent / picture, f"{where}: {picture[:80]!r}")
        description = strip_html(" ".join(texts))
        items[item_id] = Item(
            title=strip_html(title), brand="", categories="", description=description, image=picture if is_url else ""
        )
    return items, pictures


def _find_optional(table: Table, kind: str, given: str) -> int | None:
    """Return a column of DEFAULT_NAMES that may be absent unless its flag gives a name."""
    if given:
        return table.require(kind, (given,))
    return table.find(DEFAULT_NAMES[kind])
