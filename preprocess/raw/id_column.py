"""Collect a column of ids, without those that say nothing, and undo what programs make of ids that are numbers."""

import re
from array import array
from collections.abc import Collection, Sequence

import numpy as np

from preprocess.raw.item_files import encode_id

MISSING = ("NA", "N/A", "#N/A", "<NA>", "NaN", "NaT", "NULL", "(null)", "None", "undefined", r"\N")
EXACT_FLOATS = 2**53  # whole numbers up to here are exact as floats
SPREADSHEET_DIGITS = 15  # further digits of a number become zeros

SAMPLE = 1000  # ids that show whether a column has lists
LISTS = "is a list or an object; write one line per item, in pandas with explode"
_LIST = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)
_SEVERAL = re.compile(r"(?=[^\s,]*\d)[^\s,]+(?:[\s,]+(?=[^\s,]*\d)[^\s,]+)+")  # words with digits
_WHOLE = re.compile(r"-?\d+")
_FLOAT = re.compile(r"(-?\d+)[.,](?:0|00|0{4,})")  # three zeros may be thousands
_SCIENTIFIC = re.compile(r"(\d)(?:[.,](\d+))?([eE])\+(\d{1,3})")
_LONG_NUMBER_DIGITS = 12  # from which spreadsheets write numbers in scientific notation


def missing_words(words: Collection[str]) -> frozenset[str]:
    """Return the words, casefolded, that stand for a missing value; the empty one always does."""
    return frozenset(word.casefold() for word in words) | {""}


class UnusableIdError(ValueError):
    """A value that is no id."""

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(f"{text[:60]!r} {problem}")
        self.text = text


class RoundedIdError(UnusableIdError):
    """An id from which digits were cut off, so that different ids look the same."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "has lost digits, so different ids may look the same; export them as text")


class IdColumn:
    """Ids, numbered in the order of their first appearance.

    Args:
        missing: what `missing_words` returns.
    """

    def __init__(self, missing: frozenset[str]) -> None:
        self._numbering = _Numbering(missing)
        self._numbers = array("i")

    def extend(self, texts: Sequence[str]) -> None:
        """Append the next values of the column."""
        self._numbers.extend(map(self._numbering.__getitem__, texts))

    def finish(self) -> tuple[np.ndarray, list[str]]:
        """Return the number of each row's id, int32 (N,), negative where it is missing, and the encoded ids.

        Raises:
            UnusableIdError: naming a list of ids, or an id that has lost digits.
        """
        numbers = np.frombuffer(self._numbers, np.int32)
        texts = self._numbering.ids
        refuse_lists(texts)
        exact = undo_number_formats(_undo_quotes(texts))
        if exact == texts:
            return numbers, list(map(encode_id, texts))
        new_number = {text: number for number, text in enumerate(dict.fromkeys(exact))}
        renumbered = np.array([new_number[text] for text in exact], np.int32)
        return np.where(numbers < 0, numbers, renumbered[numbers]), list(map(encode_id, new_number))

    @property
    def texts(self) -> list[str]:
        """The distinct ids, as they were written."""
        return self._numbering.ids

    def missing_texts(self, rows: np.ndarray) -> list[str]:
        """Return what stands in rows, int (n,), whose id is missing."""
        numbers = np.frombuffer(self._numbers, np.int32)[rows]
        return [self._numbering.missing_ids[-1 - number] for number in numbers.tolist()]

    def first_row(self, text: str) -> int:
        """Return the first row with a value."""
        return self._numbers.index(self._numbering[text])


class _Numbering(dict):
    """Number of each id in the order of first use, from 0; of missing ones from -1 downwards."""

    def __init__(self, missing: frozenset[str]) -> None:
        super().__init__()
        self._missing = missing
        self.ids: list[str] = []
        self.missing_ids: list[str] = []

    def __missing__(self, text: str) -> int:
        if text.casefold() in self._missing:
            self.missing_ids.append(text)
            return self.setdefault(text, -len(self.missing_ids))
        self.ids.append(text)
        return self.setdefault(text, len(self.ids) - 1)


def refuse_lists(ids: list[str]) -> None:
    """Raise UnusableIdError if most of the distinct ids of a column are written as lists."""
    lists = [text for text in ids[:SAMPLE] if _LIST.fullmatch(text)]
    if len(lists) > len(ids[:SAMPLE]) / 2:
        raise UnusableIdError(lists[0], LISTS)


def warn_of_lists(ids: list[str]) -> str:
    """Return a sentence if most of the distinct ids of a column look like several ids; empty otherwise."""
    several = [text for text in ids[:SAMPLE] if _SEVERAL.fullmatch(text)]
    if len(several) <= len(ids[:SAMPLE]) / 2:
        return ""
    return f"{several[0][:40]!r} looks like several ids; if it is, write one line per item, in pandas with explode"


def _undo_quotes(ids: list[str]) -> list[str]:
    """Return ids without the single quotation marks that are around all of them."""
    if all(len(text) > 2 and text[0] == text[-1] == "'" for text in ids):
        return [text[1:-1] for text in ids]
    return ids


def undo_number_formats(ids: list[str]) -> list[str]:
    """Return ids that programs wrote as decimal numbers (123.0) or in scientific notation (1e+05) as whole numbers.

    Args:
        ids: distinct ids of a column; returned as they are if some are no numbers, or none is written so.

    Raises:
        RoundedIdError: scientific notation shows fewer digits than an id has.
    """
    scientific = {text: match for text in ids if "+" in text and (match := _SCIENTIFIC.fullmatch(text))}
    is_long_elsewhere = scientific and any(len(text) >= _LONG_NUMBER_DIGITS and text.isdecimal() for text in ids)
    whole = {text: _expand(match, is_long_elsewhere) for text, match in scientific.items()}
    for text in ids:
        if text in whole or _WHOLE.fullmatch(text):
            continue
        match = _FLOAT.fullmatch(text)
        if match is None:
            return ids
        whole[text] = match[1]
    return [whole.get(text, text) for text in ids] if whole else ids


def _expand(match: re.Match, is_long_elsewhere: bool) -> str:
    """Return the whole number that scientific notation stands for, or raise RoundedIdError.

    R writes 100000 as 1e+05, where that is shorter and loses nothing. Spreadsheets write long numbers, or all, with a
    few digits.
    """
    first, fraction, letter, exponent = match.groups("")
    n_digits = int(exponent) + 1
    digits = first + fraction
    is_short_form = letter == "e" and len(match[0]) <= n_digits
    is_exact = len(digits) >= n_digits or (is_short_form and (n_digits < _LONG_NUMBER_DIGITS or is_long_elsewhere))
    if not is_exact or digits[n_digits:].strip("0"):
        raise RoundedIdError(match[0])
    return digits[:n_digits].ljust(n_digits, "0")


def warn_of_rounded_ids(ids: list[str]) -> str:
    """Return a sentence about whole numbers that a program seems to have rounded; empty without such a sign.

    Args:
        ids: distinct ids of a column, as they were written.
    """
    if any(match and int(match[1]) > EXACT_FLOATS for match in map(_FLOAT.fullmatch, ids)):
        return "above 2^53 they are written as decimal numbers, whose last digits are lost; export them as text"
    long = [text for text in ids if len(text) > SPREADSHEET_DIGITS and text.isdecimal()]
    if len(long) > 2 and not any(text[SPREADSHEET_DIGITS:].strip("0") for text in long):
        return f"all of more than {SPREADSHEET_DIGITS} digits end in zeros, as if a spreadsheet had rounded them"
    return ""
