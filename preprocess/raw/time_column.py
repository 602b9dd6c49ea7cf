"""Collect a column of times, as numbers or dates, exactly; `preprocess.raw.time_forms` says what they mean."""

import re
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from preprocess.raw.date_texts import EPOCH, MICROSECOND, ORDERS, parse_date

LIMIT = 2**63  # of int64
MAX_DIGITS = 400  # of a number
NO_READING = -LIMIT  # stands for a date that an order of its numbers does not allow
_NUMBER = re.compile(r"([+-]?)(\d*)(?:([.,])(\d*))?(?:[eE]([+-]?\d{1,3}))?")
_PLAIN_DATE_LENGTHS = {10, 16, 19, *range(21, 27)}  # of 2024-01-31, with minutes, seconds, up to six decimals
_NAMES_OF_UTC = ("Z", " UTC", "+00:00")  # behind every date
_ZERO_DATE = re.compile(r"0000-00-00(?: 00:00:00)?")  # of MySQL: no date


class UnreadableTimeError(ValueError):
    """A value of the column that cannot be read."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(f"the value of row {row} {problem}")
        self.row = row  # from 0, over all values of the column
        self.problem = problem  # completes "'x' …"


class NumberColumn:
    """Numbers, exactly, as whole numbers and how many of their last digits are decimals."""

    def __init__(self) -> None:
        self.digits = array("q")
        self.decimals: array | None = None  # None: all are whole
        self.beyond: dict[int, int] = {}  # row -> digits that exceed int64, and are 0 in `digits`
        self.first_with: dict[str, int] = {}  # decimal mark -> first row that has it
        self.looks_grouped = {".": True, ",": True}  # three digits behind one to three, wherever the mark stands
        self.ends_in_zero = False  # a decimal number, other than by whole numbers with .0
        self.has_whole = False
        self.rounded: list[int] = []  # rows such as 1.38767E+09, which show fewer digits than the number has

    def __len__(self) -> int:
        return len(self.digits)

    def extend_quickly(self, texts: Sequence[str]) -> bool:
        """Append whole numbers, or numbers with equally many decimals, or return False and append nothing."""
        joined = "".join(texts)
        if not joined.isascii() or "_" in joined:  # both of which int would read
            return False
        decimals = 0
        has_point = "." in joined
        if has_point:
            lengths = {len(text) - text.rfind(".") - 1 for text in texts if "." in text}
            if len(lengths) > 1 or joined.count(".") < len(texts) or any(text.count(".") != 1 for text in texts):
                return False
            (decimals,) = lengths
            if all(text.endswith("0" * decimals) for text in texts):
                texts = [text[: len(text) - decimals - 1] for text in texts]
                decimals = 0
        try:
            digits = array("q", map(int, (text.replace(".", "") for text in texts) if decimals else texts))
        except (ValueError, OverflowError):
            return False
        if decimals > MAX_DIGITS:
            return False
        if decimals:
            self.first_with.setdefault(".", len(self))
            self.looks_grouped["."] &= decimals == 3 and max(map(len, texts)) <= len("999.999")
            self.ends_in_zero |= any(text.endswith("0") for text in texts)
            if self.decimals is None:
                self.decimals = array("h", bytes(2 * len(self)))
        self.has_whole |= not has_point
        self.digits.extend(digits)
        if self.decimals is not None:
            self.decimals.extend([decimals] * len(digits))
        return True

    def append_nothing(self) -> None:
        """Append a placeholder."""
        self._append(0, 0)

    def append(self, text: str) -> None:
        """Append one number.

        Raises:
            ValueError: it is none, or too large; the message completes "'x' …".
        """
        match = _NUMBER.fullmatch(text)
        if match is None or not (match[2] or match[4]):
            raise ValueError("is neither a number nor a date")
        sign, whole, mark, fraction, exponent = match.groups("")
        if exponent:
            shown = (whole + fraction).lstrip("0")
            if shown and len(shown) < len(whole) + int(exponent):
                self.rounded.append(len(self))
        elif mark:
            self.first_with.setdefault(mark, len(self))
            self.looks_grouped[mark] &= len(fraction) == 3 and 1 <= len(whole) <= 3
            self.ends_in_zero |= fraction.endswith("0")
        else:
            self.has_whole = True
        fraction = fraction.rstrip("0")
        decimals = len(fraction) - int(exponent or 0)
        if max(len(text), abs(decimals)) > MAX_DIGITS:
            raise ValueError(f"has more than {MAX_DIGITS} digits")
        digits = int(sign + whole + fraction) * 10 ** max(-decimals, 0)
        decimals = max(decimals, 0)
        if abs(digits) // 10**decimals >= LIMIT:
            raise ValueError("is beyond 2^63")
        if abs(digits) >= LIMIT:
            self.beyond[len(self)] = digits
            digits = 0
        self._append(digits, decimals)

    def _append(self, digits: int, decimals: int) -> None:
        if decimals and self.decimals is None:
            self.decimals = array("h", bytes(2 * len(self.digits)))
        self.digits.append(digits)
        if self.decimals is not None:
            self.decimals.append(decimals)


class DateColumn:
    """Dates in microseconds since 1970, in each order in which their numbers can be read.

    Args:
        pattern: of `datetime.strptime`; empty: any that `parse_date` reads.
    """

    def __init__(self, pattern: str = "") -> None:
        self.pattern = pattern
        self._width = len(datetime(2020, 12, 30, 12, 30, 30).strftime(pattern))
        self.readings = {ORDERS[0]: array("q")}  # the other orders once they differ
        self.nanoseconds: array | None = None  # below the microsecond; None: 0 everywhere
        self.n_with_zone = 0
        self.n_without_zone = 0

    def __len__(self) -> int:
        return len(self.readings[ORDERS[0]])

    def extend_quickly(self, texts: Sequence[str]) -> bool:
        """Append dates as 2024-01-31 10:00:00, or return False and append nothing."""
        zone = next((name for name in _NAMES_OF_UTC if texts[0].endswith(name)), "")
        if zone and all(text.endswith(zone) for text in texts):
            texts = [text[: -len(zone)] for text in texts]
        lengths = set(map(len, texts))
        if self.pattern or not lengths <= _PLAIN_DATE_LENGTHS or (zone and 10 in lengths):
            return False
        joined = "".join(texts)
        if {text[4] for text in texts} != {"-"} or not joined.isascii() or re.search(r"[^-0-9: T.]", joined):
            return False
        # NumPy would read 10.30 as 10:00, and 10:30-05 in another zone
        n_clocks = sum(length > 10 for length in map(len, texts))
        n_seconds = sum(length > 16 for length in map(len, texts))
        if joined.count("-") != 2 * len(texts) or joined.count(":") != n_clocks + n_seconds:
            return False
        try:
            moments = np.array(texts, "datetime64[us]").astype(np.int64)
        except ValueError:
            return False
        for reading in self.readings.values():
            reading.frombytes(moments.tobytes())
        if zone:
            self.n_with_zone += len(texts)
        else:
            self.n_without_zone += len(texts)
        if self.nanoseconds is not None:
            self.nanoseconds.extend([0] * len(texts))
        return True

    def append_nothing(self) -> None:
        """Append a placeholder."""
        self._append((0,) * len(ORDERS), 0)

    def append(self, text: str) -> None:
        """Append one date.

        Raises:
            ValueError: it is none; the message completes "'x' …".
        """
        if self.pattern:
            self._append((self._parse_with_pattern(text),) * len(ORDERS), 0)
            return
        try:
            date = parse_date(text)
        except (ValueError, OverflowError):
            raise ValueError("is neither a number nor a date") from None
        self.n_with_zone += date.names_zone
        self.n_without_zone += not date.names_zone
        self._append(tuple(NO_READING if value is None else value for value in date.readings), date.nanoseconds)

    def _parse_with_pattern(self, text: str) -> int:
        if text.isdecimal():
            text = text.zfill(self._width)  # a leading zero is lost where dates were read as numbers
        try:
            moment = datetime.strptime(text, self.pattern)
        except ValueError:
            raise ValueError(f"is not as --time_format {self.pattern}") from None
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND

    def _append(self, readings: tuple[int, ...], nanoseconds: int) -> None:
        if len(self.readings) == 1 and len(set(readings)) > 1:
            self.readings |= {order: array("q", self.readings[ORDERS[0]]) for order in ORDERS[1:]}
        if nanoseconds and self.nanoseconds is None:
            self.nanoseconds = array("h", bytes(2 * len(self)))
        for reading, value in zip(self.readings.values(), readings, strict=False):
            reading.append(value)
        if self.nanoseconds is not None:
            self.nanoseconds.append(nanoseconds)


class TimeColumn:
    """A column of times, which are all numbers or all dates.

    Args:
        missing: words, casefolded, that stand for no time; the empty one always does.
        pattern: of `datetime.strptime`, if the column has one.
    """

    def __init__(self, missing: frozenset[str], pattern: str = "") -> None:
        self._missing = missing | {""}
        self.values: NumberColumn | DateColumn | None = DateColumn(pattern) if pattern else None
        self.missing_rows: dict[int, str] = {}  # row -> what stands there

    def __len__(self) -> int:
        return len(self.missing_rows) if self.values is None else len(self.values)

    def extend(self, texts: Sequence[str]) -> None:
        """Append the next values of the column.

        Raises:
            UnreadableTimeError: a value is neither a number nor a date, or not as those before it.
        """
        if self.values is not None and self.values.extend_quickly(texts):
            return
        for position, text in enumerate(texts):
            if text.casefold() in self._missing or _ZERO_DATE.fullmatch(text):
                self.missing_rows[len(self)] = text
                if self.values is not None:
                    self.values.append_nothing()
                continue
            if self.values is None:
                self._begin(text)
                if self.values.extend_quickly(texts[position:]):
                    return
            self._append(text)

    def _begin(self, text: str) -> None:
        """Decide by the first value whether the column has numbers or dates."""
        match = _NUMBER.fullmatch(text)
        values = NumberColumn() if match and (match[2] or match[4]) else DateColumn()
        for _ in self.missing_rows:
            values.append_nothing()
        self.values = values

    def _append(self, text: str) -> None:
        """Append one value, or raise."""
        try:
            self.values.append(text)
        except ValueError as error:
            is_number = isinstance(self.values, NumberColumn)
            if not is_number and self.values.pattern:
                raise UnreadableTimeError(len(self), str(error)) from None
            other = DateColumn() if is_number else NumberColumn()
            try:
                other.append(text)
            except ValueError:
                hint = "write one as 2024-01-31 10:00:00, or give --time_format"
                if not any(map(str.isdigit, text)):
                    hint = "write a time there or, where it says that there is none, name it in --missing"
                raise UnreadableTimeError(len(self), f"{error}; {hint}") from None
            problem = f"among {'numbers' if is_number else 'dates'}; write all times in one way"
            raise UnreadableTimeError(len(self), problem) from None
