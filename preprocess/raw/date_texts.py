"""Read dates as people and programs write them.

Numbers in the order day, month, year and month, day, year look alike, so a date is read in every order that it allows;
the column decides (`preprocess.raw.time_column`).
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ORDERS = ("day_first", "month_first", "year_first")
FIRST_YEAR_OF_TWO_DIGITS = 69  # 69 to 99 are of the 20th century, as in POSIX
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? +)?"
_TIME = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?(?: ?(?P<half>[ap])\.?m\.?)?"
)
_ZONE = r"(?P<zone>z|(?:utc|gmt)? ?[+-]\d\d:?\d\d|(?:utc|gmt)? ?[+-]\d\d|utc|gmt|ut)(?: ?\([^)]*\))?"
_MONTH = r"(?P<month>[a-z]{3,9})\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_DATES = (
    r"(?P<first>\d{1,4})(?P<mark>[-/. ])(?P<second_number>\d{1,2})(?:(?P=mark)|, ?)(?P<third>\d{1,4})",
    rf"{_DAY}[-/. ]{{0,2}}{_MONTH}[-/. ,]{{0,2}}(?P<year>\d{{4}}|\d\d)",
    rf"{_MONTH}[- ]?{_DAY},?[- ]{_YEAR}",
    rf"{_YEAR}[- /.]{_MONTH}[- /.]{_DAY}",
)
_PATTERNS = [
    *(re.compile(rf"{_WEEKDAY}{date}(?:(?:,? +|t)(?:at )?{_TIME}(?: ?{_ZONE})?)?", re.IGNORECASE) for date in _DATES),
    re.compile(rf"{_WEEKDAY}{_MONTH} +{_DAY} {_TIME}(?: {_ZONE})? {_YEAR}", re.IGNORECASE),  # C's asctime, Twitter
]
_BELOW_MICROSECONDS = re.compile(r"[.,]\d{6}(\d{1,3})")


class Date(NamedTuple):
    """A date in every order in which its numbers can be read."""

    readings: tuple[int | None, ...]  # microseconds since 1970 per order of ORDERS; None: not possible
    nanoseconds: int  # below the microsecond, 0 to 999
    names_zone: bool  # otherwise it is taken as UTC


def parse_date(text: str) -> Date:
    """Read a date, with or without a time of day and a zone.

    Raises:
        ValueError: it is none.
    """
    below = _BELOW_MICROSECONDS.search(text)
    nanoseconds = int(below[1].ljust(3, "0")) if below else 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        match = next(filter(None, (pattern.fullmatch(text) for pattern in _PATTERNS)), None)
        if match is None:
            raise
        parts = match.groupdict()
        clock = _clock(parts)
        zone = parts["zone"]
        readings = tuple(_microseconds(numbers, clock, _zone(zone)) for numbers in _orders(parts))
        if not any(reading is not None for reading in readings):
            raise ValueError(f"{text!r} is no date") from None
        return Date(readings, nanoseconds, zone is not None)
    names_zone = moment.tzinfo is not None
    if not names_zone:
        moment = moment.replace(tzinfo=UTC)
    return Date(((moment - EPOCH) // MICROSECOND,) * len(ORDERS), nanoseconds, names_zone)


def century(two_digits: int) -> int:
    """Return the year that two digits stand for."""
    return two_digits + (1900 if two_digits >= FIRST_YEAR_OF_TWO_DIGITS else 2000)


def _orders(parts: dict[str, str]) -> list[tuple[int, int, int] | None]:
    """Return year, month and day per order of ORDERS."""
    if "first" not in parts:
        name = parts["month"].lower()
        month = MONTHS.index(name[:3]) + 1 if name[:3] in MONTHS else 0
        return [(_year(parts["year"]), month, int(parts["day"]))] * len(ORDERS)
    words = (parts["first"], parts["second_number"], parts["third"])
    first, second, third = map(int, words)
    if len(words[0]) > 2:
        return [(first, second, third) if len(words[0]) == 4 and len(words[2]) <= 2 else None] * len(ORDERS)
    if len(words[2]) == 3:
        return [None] * len(ORDERS)
    day_first = (_year(words[2]), second, first)
    month_first = (_year(words[2]), first, second)
    year_first = (century(first), second, third) if len(words[2]) <= 2 else None
    if parts["mark"] == "." and second <= 12:
        month_first = None  # 1.2.2024 has the day first wherever dots are in use
    return [day_first, month_first, year_first]


def _year(word: str) -> int:
    return int(word) if len(word) > 2 else century(int(word))


def _clock(parts: dict[str, str]) -> tuple[int, int, int, int]:
    """Return hour, minute, second and microsecond; midnight where there is no time of day."""
    hour = int(parts["hour"] or 0)
    if parts["half"]:
        if not 1 <= hour <= 12:
            raise ValueError(f"there is no {hour} o'clock before or after noon")
        hour = hour % 12 + (12 if parts["half"] in "pP" else 0)
    microsecond = int((parts["fraction"] or "0")[:6].ljust(6, "0"))
    return hour, int(parts["minute"] or 0), int(parts["second"] or 0), microsecond


def _zone(name: str | None) -> timezone:
    """Return the zone that an offset such as +01:00, GMT+0100 or Z names; UTC without a name."""
    match = re.search(r"([+-])(\d\d):?(\d\d)?", name or "")
    if match is None:
        return UTC
    sign, hours, minutes = match.groups("0")
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-offset if sign == "-" else offset)


def _microseconds(date: tuple[int, int, int] | None, clock: tuple[int, int, int, int], zone: timezone) -> int | None:
    """Return the microseconds since 1970, or None where no such day or time exists."""
    if date is None:
        return None
    try:
        return (datetime(*date, *clock, tzinfo=zone) - EPOCH) // MICROSECOND
    except ValueError:
        return None
