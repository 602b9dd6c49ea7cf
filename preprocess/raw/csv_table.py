"""Read interactions and item metadata from tables (`preprocess.raw.table`), whose columns are found by their names."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from preprocess.raw.interactions import RawInteractions, collect_interactions
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


# ---------------------------------------------------------------- interactions


def read_csv_interactions(path: Path, columns: ColumnSettings) -> RawInteractions:
    """Read each line as one interaction.

    Returns:
        Interactions in the order of lines; times as they are written, dates in seconds since 1970.

    Raises:
        FileNotFoundError, ValueError: naming file, line and value.
    """
    table = Table(path)
    selected = [
        table.require(kind, (given,) if given else DEFAULT_NAMES[kind])
        for kind, given in (("user", columns.user), ("item", columns.item), ("time", columns.time))
    ]
    interactions = collect_interactions(_parse_interactions(table.rows(selected)), [])
    if not len(interactions):
        raise ValueError(f"{path}: no line below a header; give a file with some")
    return interactions


def _parse_interactions(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, str, str, float]]:
    """Encode ids and parse times, which must be all numbers or all dates."""
    times_are_dates = None
    for where, user, item, time in rows:
        if not user or not item:
            raise ValueError(f"{where}: no {'item' if user else 'user'}; complete or remove the line")
        try:
            is_date, value = parse_time(time)
        except ValueError:
            problem = f"{time[:40]!r} is neither a number nor a date"
            raise ValueError(f"{where}: {problem}; write one as 2024-01-31 10:00:00") from None
        if times_are_dates is not None and is_date != times_are_dates:
            others = "dates" if times_are_dates else "numbers"
            raise ValueError(f"{where}: {time!r} among {others}; write all times in one way")
        times_are_dates = is_date
        yield where, encode_id(user), encode_id(item), value


def parse_time(text: str) -> tuple[bool, float]:
    """Return whether a time is a date, and its value: a number as it is written, a date in seconds since 1970.

    Raises:
        ValueError: neither a finite number below 2^63 nor a date in ISO 8601.
    """
    for number_type in (int, float):  # int first, because float rounds whole numbers above 2^53
        try:
            value = number_type(text)
        except ValueError:
            continue
        if math.isfinite(value) and abs(value) < 2**63:
            return False, value
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return True, moment.timestamp()


# ---------------------------------------------------------------- item metadata


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
