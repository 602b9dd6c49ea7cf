"""Read interactions from tables (`preprocess.raw.table`): ids, and times that are numbers or dates."""

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from preprocess.raw.csv_table import DEFAULT_NAMES, ColumnSettings, open_table
from preprocess.raw.interactions import RawInteractions, collect_interactions
from preprocess.raw.item_files import encode_id


def read_csv_interactions(path: Path, columns: ColumnSettings) -> RawInteractions:
    """Read each line as one interaction.

    Returns:
        Interactions in the order of lines; times as they are written, dates in seconds since 1970.

    Raises:
        FileNotFoundError, ValueError: naming file, line and value.
    """
    table = open_table(path, columns)
    print(table.describe())
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
