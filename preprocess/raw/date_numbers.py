"""Recognise dates that are written as whole numbers: 20240131, 31012024, 202401311015 and the like.

As numbers, dates with the day or month in front would sort wrongly without a word.
"""

from typing import NamedTuple

import numpy as np

from preprocess.raw.date_texts import FIRST_YEAR_OF_TWO_DIGITS, ORDERS

MICROSECONDS = 1_000_000
YEARS = {4: (1900, 2100), 2: (1980, 2040)}  # by digits: the first, and the one behind the last, that make a date
NEARLY_ALL = 0.9  # share of a column's numbers that are dates from which the others are taken for mistakes
SAMPLE = 1000  # of the numbers, which shows without reading all that they are no dates
LIKELY = 0.8  # share of the sample
CLOCKS = {0: (), 2: (24,), 4: (24, 60), 6: (24, 60, 60), 9: (24, 60, 60, 1000)}  # digits behind the date: their units
LAST_USUAL_SECOND = 2**31  # since 1970, in the year 2038: ten digits up to there are seconds


class NumberDates(NamedTuple):
    """The dates that the numbers of a column are in one order of day, month and year."""

    order: str  # of ORDERS
    year_digits: int
    microseconds: np.ndarray  # int64 (N,), since 1970
    valid: np.ndarray  # bool (N,), False where the number is no date


def read_number_dates(values: np.ndarray) -> list[NumberDates]:
    """Return the readings of whole numbers as dates, those of NEARLY_ALL in one order or another.

    Args:
        values: int64 (N,).

    Returns:
        Readings with the same number of digits for the year, four preferred, in the order of ORDERS; empty where the
        numbers are no dates.
    """
    if values.min() < 0 or np.median(values) < 10_000:  # a date has at least five digits: 10124, without leading zero
        return []
    sample = values[:: len(values) // SAMPLE + 1]
    if len(sample) < len(values) and not _read_nearly_all(sample, len(str(values.max())), LIKELY):
        return []
    return _read_nearly_all(values, len(str(values.max())), NEARLY_ALL)


def _read_nearly_all(values: np.ndarray, n_digits: int, share: float) -> list[NumberDates]:
    """Return the readings of numbers of up to so many digits, if at least this share of them are dates."""
    for year_digits in (4, 2):
        readings = []
        for clock_digits, clock in CLOCKS.items():
            date_digits = n_digits - clock_digits
            if date_digits not in (3 + year_digits, 4 + year_digits) or _is_usual_time(
                values, year_digits, clock_digits
            ):
                continue
            for order in ORDERS:
                # Behind a four-digit year no leading zero can be missing
                if order != "year_first" or year_digits == 2 or date_digits == 8:
                    readings.append(_read(values, order, year_digits, clock))
        best = max((np.mean(reading.valid) for reading in readings), default=0)
        either = np.any([reading.valid for reading in readings if reading.order != "year_first"] or [[False]], axis=0)
        if max(best, np.mean(either)) >= share:
            return [reading for reading in readings if reading.valid.any()]
    return []


def _is_usual_time(values: np.ndarray, year_digits: int, clock_digits: int) -> bool:
    """Return whether numbers of as many digits are rather seconds since 1970, or years and months."""
    if year_digits == 4:
        return False
    if clock_digits == 4:
        return values.max() < LAST_USUAL_SECOND
    if clock_digits == 0:
        year, month = np.divmod(values, 100)
        first, end = YEARS[4]
        return bool(np.all((year >= first) & (year < end) & (month >= 1) & (month <= 12)))
    return clock_digits != 6


def _read(values: np.ndarray, order: str, year_digits: int, clock: tuple[int, ...]) -> NumberDates:
    """Read numbers as date and time of day, whose digits follow each other without marks."""
    rest = values
    valid = np.ones(len(values), bool)
    microseconds = np.zeros(len(values), np.int64)
    scale = MICROSECONDS * 86_400 // int(np.prod(clock, dtype=np.int64))
    for unit in reversed(clock):
        rest, part = np.divmod(rest, 1000 if unit == 1000 else 100)
        valid &= part < unit
        microseconds += part * scale
        scale *= unit
    year_base = 10**year_digits
    if order == "year_first":
        rest, day = np.divmod(rest, 100)
        year, month = np.divmod(rest, 100)
    else:
        rest, year = np.divmod(rest, year_base)
        first, second = np.divmod(rest, 100)
        day, month = (first, second) if order == "day_first" else (second, first)
    valid &= (year >= 0) & (year < year_base)
    if year_digits == 2:
        year = year + np.where(year >= FIRST_YEAR_OF_TWO_DIGITS, 1900, 2000)
    first_year, end_year = YEARS[year_digits]
    valid &= (year >= first_year) & (year < end_year) & (month >= 1) & (month <= 12) & (day >= 1)
    # A counter changes its last digits most, a date hardly its year
    valid &= len(np.unique(year)) <= len(np.unique(month * 100 + day))
    months = np.where(valid, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    first_day, next_first_day = (
        part.astype("datetime64[D]").astype(np.int64) for part in (months, months + np.timedelta64(1, "M"))
    )
    valid &= day <= next_first_day - first_day
    microseconds += (first_day + day - 1) * 86_400 * MICROSECONDS
    return NumberDates(order, year_digits, np.where(valid, microseconds, 0), valid)
