"""Tell the header of a table from its first line of data, and name the columns of a table that has none."""

import re
from collections.abc import Callable
from typing import NamedTuple

from preprocess.raw.table_shape import ASIN, ID, is_value

REVIEWER = re.compile(r"A[0-9A-Z]{11,}")  # Amazon's ids of users
MAX_RATING = 10
FIRST_TIME = 10**8  # seconds since 1970, in 1973
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
WHOLE = re.compile(r"\d+(\.0*)?")
DECIMAL = re.compile(r"[+-]?\d+([.,]\d+)?")


class Header(NamedTuple):
    """The names of a table's columns."""

    names: list[str]
    is_line: bool  # whether the first line has them
    note: str = ""  # where they come from, if not from the first line


def normalize(name: str) -> str:
    """Return a column's name without RecBole's type, in lower case."""
    return name.partition(":")[0].strip().lstrip("#").strip().lower()


def has_header(rows: list[list[str]], known: set[str]) -> bool:
    """Return whether the first row has the names of the columns.

    Args:
        rows: the first rows of the table.
        known: names, normalized, which are no data.
    """
    first = rows[0]
    if any(normalize(name) in known for name in first):
        return True
    return not any(is_value(name) for name in first)


def is_certain_header(rows: list[list[str]], known: set[str]) -> bool:
    """Return whether the first row differs from the others as names differ from data."""
    if any(normalize(name) in known for name in rows[0]):
        return True
    if any(is_value(name) for name in rows[0]):
        return False
    columns = list(zip(*rows[1:], strict=False))
    return any(all(map(is_value, column)) for column in columns)


def assume_interactions(rows: list[list[str]]) -> list[str]:
    """Return the names of the columns of well-known layouts of interactions without a header; empty for others.

    These are MovieLens (user, item, rating, time), Amazon's ratings (the same, or item and user exchanged), both
    also without ratings, and check-ins (user, time, latitude, longitude, place).
    """
    if len({len(row) for row in rows}) > 1:
        return []
    columns = [
        tuple(filter(None, column)) for column in zip(*rows, strict=True)
    ]  # lines without a value are passed over
    if not all(columns):
        return []
    if _are(columns, bool, bool, _is_rating, _is_time):
        return [*_user_and_item(columns), "rating", "time"]
    if _are(columns, bool, bool, _is_time):
        return [*_user_and_item(columns), "time"]
    if _are(columns, _is_id, _is_iso_time, _is_decimal, _is_decimal, _is_id):
        return ["user", "time", "latitude", "longitude", "item"]
    if _are(columns, _is_id, _is_id):
        return _user_and_item(columns)
    return []


def assume_items(rows: list[list[str]]) -> list[str]:
    """Return the names of the columns of a table of items without a header: item, title, column3, …; or empty."""
    if len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
        return []
    ids, titles, *_ = zip(*rows, strict=True)
    if len(set(ids)) < len(ids) or all(map(is_value, titles)):
        return []
    return ["item", "title", *(f"column{number}" for number in range(3, len(rows[0]) + 1))]


def _user_and_item(columns: list[tuple[str, ...]]) -> list[str]:
    """Return the names of the first two columns; Amazon's release of 2018 has the item first."""
    first, second = columns[:2]
    if all(map(ASIN.fullmatch, first)) and sum(map(bool, map(REVIEWER.fullmatch, second))) > len(second) / 2:
        return ["item", "user"]
    return ["user", "item"]


def _are(columns: list[tuple[str, ...]], *kinds: Callable[[str], bool]) -> bool:
    """Return whether each column has values of one kind."""
    if len(columns) != len(kinds):
        return False
    return all(all(map(kind, column)) for kind, column in zip(kinds, columns, strict=True))


def _is_id(text: str) -> bool:
    return ID.fullmatch(text) is not None


def _is_rating(text: str) -> bool:
    return DECIMAL.fullmatch(text) is not None and 0 <= float(text.replace(",", ".")) <= MAX_RATING


def _is_time(text: str) -> bool:
    return _is_iso_time(text) or (WHOLE.fullmatch(text) is not None and float(text) >= FIRST_TIME)


def _is_iso_time(text: str) -> bool:
    return ISO_TIME.fullmatch(text) is not None


def _is_decimal(text: str) -> bool:
    return DECIMAL.fullmatch(text) is not None
