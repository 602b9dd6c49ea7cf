"""Recognise what the times of a column mean, and make them whole numbers that keep their order exactly."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from preprocess.raw.date_numbers import NumberDates, read_number_dates
from preprocess.raw.date_texts import EPOCH, MICROSECOND, ORDERS
from preprocess.raw.interactions import KNOWN_SECONDS, SECONDS_PER_DAY
from preprocess.raw.time_column import LIMIT, NO_READING, DateColumn, NumberColumn, TimeColumn, UnreadableTimeError

UNITS_PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
FORMATS = ("number", "excel", *ORDERS)  # what --time_format takes beside patterns
EXCEL_DAYS_BEFORE_1970 = 25_569
MOST = 0.5  # share of the times of known years from which the others deserve a warning
NEARLY_ALL = 0.9  # share of the times that must be of known years for the others to be odd
NAMES = {"day_first": "the day first", "month_first": "the month first", "year_first": "the year first"}


class Times(NamedTuple):
    """The times of the rows that have one."""

    values: np.ndarray  # int64 (n,), in their order
    present: np.ndarray  # bool (N,), True for n of the column's rows
    units_per_day: int | None  # of the values, which then count from 1970
    form: str  # in words
    warnings: list[tuple[str, int | None]]  # and the row that each is about


def interpret_times(column: TimeColumn, time_format: str = "") -> Times:
    """Return what a column of times means.

    Args:
        column: the column.
        time_format: one of FORMATS, a pattern of `datetime.strptime`, or empty: recognise the form.

    Raises:
        UnreadableTimeError: a time has no meaning among the others, or several.
    """
    present = np.ones(len(column), bool)
    present[list(column.missing_rows)] = False
    if not present.any():
        return Times(np.empty(0, np.int64), present, None, "none", [])
    rows = np.flatnonzero(present)
    if isinstance(column.values, DateColumn):
        if time_format in ("number", "excel"):
            raise UnreadableTimeError(int(rows[0]), f"is no number, but --time_format {time_format} is given")
        return _interpret_dates(column.values, present, rows, time_format)
    return _interpret_numbers(column.values, present, rows, time_format)


# ---------------------------------------------------------------- dates


def _interpret_dates(column: DateColumn, present: np.ndarray, rows: np.ndarray, time_format: str) -> Times:
    readings = {order: np.frombuffer(values, np.int64)[rows] for order, values in column.readings.items()}
    if len(readings) == 1:
        order = ORDERS[0]
        form = "dates"
    else:
        order = _decide_order(readings, rows, time_format)
        form = f"dates, {NAMES[order]}"
    values = readings[order]
    warnings = []
    if column.n_with_zone and column.n_without_zone:
        total = column.n_with_zone + column.n_without_zone
        warnings.append((f"{column.n_without_zone:,} of {total:,} times name no time zone and are taken as UTC", None))
    units_per_second = 10**6
    if column.nanoseconds is not None:
        if np.abs(values).max() >= LIMIT // 1000 - 1:
            row = int(rows[np.abs(values).argmax()])
            raise UnreadableTimeError(row, "is not within 292 years of 1970, but others have nanoseconds; correct it")
        values = values * 1000 + np.frombuffer(column.nanoseconds, np.int16)[rows]
        units_per_second = 10**9
    return Times(values, present, SECONDS_PER_DAY * units_per_second, form, warnings)


def _decide_order(readings: dict[str, np.ndarray], rows: np.ndarray, time_format: str) -> str:
    """Return the only order of day, month and year that all dates allow."""
    bad = {order: values == NO_READING for order, values in readings.items()}
    if time_format in ORDERS:
        if bad[time_format].any():
            raise UnreadableTimeError(int(rows[bad[time_format].argmax()]), f"is no date with {NAMES[time_format]}")
        return time_format
    possible = [order for order in readings if not bad[order].any()]
    if not possible:
        best = min(bad, key=lambda order: np.sum(bad[order]))
        problem = f"is no date with {NAMES[best]}, as most others are; write all dates in one order"
        raise UnreadableTimeError(int(rows[bad[best].argmax()]), problem)
    if "year_first" in possible:  # two digits stand for the year, and no interaction is in the future
        tomorrow = (datetime.now(UTC) + timedelta(days=1) - EPOCH) // MICROSECOND
        possible = [order for order in possible if readings[order].max() < tomorrow] or possible
    _refuse_several({order: readings[order] for order in possible}, rows)
    return possible[0]


def _refuse_several(readings: dict[str, np.ndarray], rows: np.ndarray) -> None:
    """Raise UnreadableTimeError if readings of the same times differ."""
    (first, values), *others = readings.items()
    for other, other_values in others:
        if (differs := values != other_values).any():
            position = int(differs.argmax())
            dates = (str((EPOCH + reading[position] * MICROSECOND).date()) for reading in (values, other_values))
            either = " or ".join(f"{date} ({NAMES[order]})" for date, order in zip(dates, (first, other), strict=True))
            hint = f"give --time_format {' or '.join(readings)}"
            raise UnreadableTimeError(int(rows[position]), f"may be {either}, and so may all others; {hint}")


# ---------------------------------------------------------------- numbers


def _interpret_numbers(column: NumberColumn, present: np.ndarray, rows: np.ndarray, time_format: str) -> Times:
    _refuse_grouped_digits(column)
    warnings = _warn_of_lost_digits(column)
    values, scale = _scale(column, rows)
    if scale is None or time_format == "number":
        form = "numbers of more digits than 64 bits hold" if scale is None else "numbers"
        return Times(values, present, None, form, warnings)
    if time_format == "excel" or (not time_format and scale > 1 and _are_excel_days(values, scale)):
        values = values - EXCEL_DAYS_BEFORE_1970 * scale
        return Times(values, present, scale, "days as Excel counts them", warnings)
    dates = _choose_number_dates(values, rows, time_format) if scale == 1 else None
    if dates is not None:
        form = f"dates as whole numbers, {NAMES[dates.order]}"
        return Times(dates.microseconds, present, SECONDS_PER_DAY * 10**6, form, warnings)
    if time_format:
        raise UnreadableTimeError(int(rows[0]), f"is no date with {NAMES[time_format]}, as --time_format says")
    unit = _recognise_unit(values, scale, rows, warnings)
    units_per_day = None if unit is None else SECONDS_PER_DAY * UNITS_PER_SECOND[unit] * scale
    return Times(values, present, units_per_day, f"{unit} since 1970" if unit else "numbers", warnings)


def _refuse_grouped_digits(column: NumberColumn) -> None:
    """Raise UnreadableTimeError if a decimal mark may be one between thousands."""
    if len(column.first_with) == 2:
        mark, row = max(column.first_with.items(), key=lambda entry: entry[1])
        problem = f"has a {'comma' if mark == ',' else 'point'}, others have the other mark; write all in one way"
        raise UnreadableTimeError(row, problem)
    for mark, row in column.first_with.items():
        if column.looks_grouped[mark] and (mark == "," or (column.has_whole and column.ends_in_zero)):
            problem = "may be a decimal number or one with a mark between thousands; write it without such marks"
            raise UnreadableTimeError(row, problem)


def _warn_of_lost_digits(column: NumberColumn) -> list[tuple[str, int | None]]:
    warnings = []
    if column.rounded:
        message = (
            f"{len(column.rounded):,} of {len(column):,} times are in scientific notation with fewer digits than the "
            f"number has: where a program cut them off, as spreadsheets do, the order is lost; take the original file"
        )
        warnings.append((message, column.rounded[0]))
    return warnings


def _scale(column: NumberColumn, rows: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Return whole numbers in the order of the numbers, and how many make 1.

    Without such a scale within int64, the numbers' ranks and None.
    """
    digits = np.frombuffer(column.digits, np.int64)[rows]
    if column.decimals is None:
        return digits, 1
    decimals = np.frombuffer(column.decimals, np.int16)[rows]
    most = int(decimals.max())
    largest = {places: np.abs(digits[decimals == places]).max().item() for places in np.unique(decimals).tolist()}
    if not column.beyond and all(number * 10 ** (most - places) < LIMIT for places, number in largest.items()):
        return digits * 10 ** (most - decimals.astype(np.int64)), 10**most
    triples = zip(rows.tolist(), digits.tolist(), decimals.tolist(), strict=True)
    exact = [column.beyond.get(row, number) * 10 ** (most - places) for row, number, places in triples]
    rank = {number: index for index, number in enumerate(sorted(set(exact)))}
    return np.array([rank[number] for number in exact], np.int64), None


def _are_excel_days(values: np.ndarray, scale: int) -> bool:
    first, end = (seconds // SECONDS_PER_DAY + EXCEL_DAYS_BEFORE_1970 for seconds in KNOWN_SECONDS)
    return bool(values.min() >= first * scale and values.max() < end * scale)


def _choose_number_dates(values: np.ndarray, rows: np.ndarray, time_format: str) -> NumberDates | None:
    """Return the only way in which whole numbers are dates, or None: they are none."""
    readings = read_number_dates(values)
    if time_format:
        readings = [reading for reading in readings if reading.order == time_format]
    complete = [reading for reading in readings if reading.valid.all()]
    if not readings or (not complete and not time_format and readings[0].order == "year_first"):
        return None  # with four digits of a year in front, numbers sort like dates
    if not complete:
        best = max(readings, key=lambda reading: np.sum(reading.valid))
        problem = f"is no date with {NAMES[best.order]}, as most others are; correct it, or give --time_format number"
        raise UnreadableTimeError(int(rows[best.valid.argmin()]), problem)
    if complete[0].year_digits == 2 and not time_format:
        hint = "--time_format " + ", ".join(reading.order for reading in complete)
        problem = f"may be a date with two digits for the year; give {hint}, or number if it is none"
        raise UnreadableTimeError(int(rows[0]), problem)
    _refuse_several({reading.order: reading.microseconds for reading in complete}, rows)
    return complete[0]


def _recognise_unit(values: np.ndarray, scale: int, rows: np.ndarray, warnings: list) -> str | None:
    """Return the unit in which nearly all times are of known years, or None; add a warning about the others."""
    inside = {}
    for unit, per_second in UNITS_PER_SECOND.items():
        first, end = (seconds * per_second * scale for seconds in KNOWN_SECONDS)
        if first < LIMIT and (within := (values >= first) & (values <= min(end, LIMIT) - 1)).any():
            inside[unit] = within
    known = np.any(list(inside.values()), axis=0) if inside else np.zeros(len(values), bool)
    n_odd = int(np.sum(~known))
    odd = f"{n_odd:,} of {len(values):,} times are not of the years 1980 to 2099 and sort as they stand"
    if known.mean() < NEARLY_ALL:
        if known.mean() > MOST:
            warnings.append((odd, int(rows[known.argmin()])))
        return None
    if len(inside) > 1:
        usual, *_, rare = sorted(inside, key=lambda unit: -np.sum(inside[unit]))
        problem = f"counts {rare} since 1970, most others count {usual}; write all in one unit"
        raise UnreadableTimeError(int(rows[inside[rare].argmax()]), f"{problem}, or give --time_format number")
    (unit,) = inside
    if n_odd:
        warnings.append((odd, int(rows[known.argmin()])))
    return unit
