"""Read the Amazon releases of 2014, 2018 and 2023, which are recognised by their content."""

import re
from array import array
from collections.abc import Callable, Container, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from preprocess.raw.interactions import KNOWN_SECONDS, RawInteractions
from preprocess.raw.item_files import ASIN, encode_id
from preprocess.raw.item_metadata import NO_TEXT, Item, describe
from preprocess.raw.release_file import ReleaseFile
from preprocess.raw.skipped_lines import OddLineError, SkippedLines
from utils.cli.progress import track

REVIEW_FILES = ("reviews_{}_5.json", "reviews_{}.json", "{}_5.json", "{}.json", "{}.jsonl", "{}.csv")
META_FILES = ("meta_{}.json", "meta_{}.jsonl", "meta_{}.csv")
MAX_TIME = 2**43  # milliseconds since 1970, in the year 2248
KNOWN_TIMES = tuple(1000 * seconds for seconds in KNOWN_SECONDS)  # in milliseconds
SMALLER_UNITS = (1, 10**3, 10**6)  # milli-, micro- and nanoseconds, in a millisecond
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")
SCIENTIFIC = re.compile(r"\s*[+-]?[0-9]\.?(?P<decimals>[0-9]*)[eE]\+?(?P<exponent>[0-9]{1,3})\s*")
START_OF_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class ReviewFields(NamedTuple):
    """Names of the fields of a review, and the unit of its time."""

    user: str
    item: str
    time: str
    unit: int  # milliseconds


FIELDS_2014_2018 = ReviewFields("reviewerID", "asin", "unixReviewTime", 1000)
FIELDS_2023 = ReviewFields("user_id", "parent_asin", "timestamp", 1)
BRAND_FIELDS = {"parent_asin": "store", "asin": "brand"}  # of metadata, by the field with the item
# What an entry with a user has where reviews and metadata were joined, and reviews alone lack
METADATA_FIELDS = {"brand", "store", "category", "categories", "main_category", "description", "feature", "features"}


def find_release_file(given: str, folder: Path, patterns: tuple[str, ...], category: str) -> Path:
    """Return the path that is given, or else the first of a release's files in the folder, compressed or not.

    Raises:
        FileNotFoundError: there is none.
    """
    names = [pattern.format(category) for pattern in patterns]
    candidates = [folder / (name + ending) for name in names for ending in (".gz", "", ".zip")]
    if given:
        candidates = [Path(given)]
    for path in candidates:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"{candidates[0]} missing; datasets/README.md lists the files that are read and where to get them"
    )


# ---------------------------------------------------------------- reviews


def load_reviews(path: Path, skipped: SkippedLines | None = None) -> RawInteractions:
    """Read all reviews of a file in their order, times in milliseconds.

    Args:
        path: path of the file.
        skipped: takes the lines that cannot be used; without it, such a line is an error.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path, line and value.
    """
    skipped = SkippedLines(path) if skipped is None else skipped
    file = ReleaseFile(path, skipped)
    user_index = _Numbering(_is_user)
    item_index = _Numbering(_is_item)
    users = array("i")
    items = array("i")
    times = array("q")
    early = array("q")  # indices and positions of times before 1980
    fields = None
    unit = 1
    earliest, _ = KNOWN_TIMES
    for position, entry, line in track(file, path.name, "reviews"):
        if fields is None:
            fields = _recognise_fields(entry)
            user_field, item_field, time_field, unit = fields or FIELDS_2014_2018
        try:
            user = user_index[entry.get(user_field)]
            item = item_index[entry.get(item_field)]
            time = entry.get(time_field)
            if type(time) is not int or not earliest <= time * unit < MAX_TIME:
                raise _UnusualError
            time *= unit
        except (_UnusualError, TypeError):  # of a list as an id
            try:
                user_id, item_id, time = _read_carefully(file, position, entry, line)
            except OddLineError as error:
                skipped.add(error)
                continue
            user = user_index[user_id]
            item = item_index[item_id]
            if time < earliest:
                early.extend((len(times), position))
        users.append(user)
        items.append(item)
        times.append(time)
    time = np.array(times)
    is_used = _settle_early_times(file, time, np.array(early).reshape(-1, 2), unit, skipped)
    skipped.check()
    if not users:
        raise ValueError(f"{path}: no review in it; download it again")
    _refuse_ids_in_two_cases(path, item_index)
    ids = [encode_id(user) for user in user_index], list(item_index)
    return RawInteractions(np.asarray(users)[is_used], np.asarray(items)[is_used], time[is_used], *ids)


def _settle_early_times(
    file: ReleaseFile, time: np.ndarray, early: np.ndarray, unit: int, skipped: SkippedLines
) -> np.ndarray:
    """Settle times before 1980 beside later ones: seconds where milliseconds belong, or no times.

    Args:
        file: the file.
        time: int64 (N,), in milliseconds; those in seconds are corrected.
        early: int64 (n, 2), index and position of each time before 1980.
        unit: milliseconds per unit of the file's times.
        skipped: takes the reviews without a time.

    Returns:
        bool (N,), whether each review is used.
    """
    is_used = np.ones(len(time), bool)
    index, position = early.T.astype(np.int64)
    in_seconds = (unit == 1) & (time[index] >= KNOWN_SECONDS[0]) & (time[index] < KNOWN_SECONDS[1])
    if len(index) == len(time) and not in_seconds.all():
        return is_used
    time[index[in_seconds]] *= 1000
    is_used[index[~in_seconds]] = False
    for odd in position[~in_seconds].tolist():
        skipped.add(file.odd(odd, "a time before 1980 beside later ones"))
    return is_used


def _refuse_ids_in_two_cases(path: Path, item_ids: Container[str]) -> None:
    """Raise ValueError if two items differ only in capitals, which Amazon's do not."""
    for asin in item_ids:
        if asin.upper() != asin and asin.upper() in item_ids:
            raise ValueError(f"{path}: items {asin!r} and {asin.upper()!r} differ in case only; write ids in capitals")


class _UnusualError(Exception):
    """A review of which one field is not as usual."""


class _Numbering(dict):
    """Number of each id in the order of first use.

    Args:
        is_id: whether a value is an id.
    """

    def __init__(self, is_id: Callable[[object], bool]) -> None:
        super().__init__()
        self._is_id = is_id

    def __missing__(self, value: object) -> int:
        if not self._is_id(value):
            raise _UnusualError
        return self.setdefault(value, len(self))


def _recognise_fields(entry: dict) -> ReviewFields | None:
    """Return the fields of the release that an entry is from; None if it has none of them."""
    if "parent_asin" in entry or "user_id" in entry or "timestamp" in entry:
        return FIELDS_2023
    return FIELDS_2014_2018 if "reviewerID" in entry or "unixReviewTime" in entry else None


def _read_carefully(file: ReleaseFile, position: int, entry: dict, line: bytes | None) -> tuple[str, str, int]:
    """Return user, item and time in milliseconds of a review in which something is unusual.

    Raises:
        OddLineError: it cannot be used.
    """
    fields = _recognise_fields(entry)
    if fields is None:
        raise file.odd(position, "none of the fields of a review")
    if any(isinstance(entry.get(name), float) for name in fields[:3]):
        entry = file.exactly(position, entry, line)
    value = _required(file, position, entry, fields.time)
    if _is_rounded(value):
        problem = f"{fields.time} {_excerpt(value)} is rounded"
        raise file.odd(position, f"{fields.time} is rounded", problem, "take the original file")
    time = _milliseconds(value, fields.unit)
    if time is None:
        problem = f"{fields.time} {_excerpt(value)} is not of type int"
        raise file.odd(position, f"{fields.time} is not of type int", problem)
    if not 0 <= time < MAX_TIME:
        problem = f"{fields.time} {_excerpt(value)} is no time since 1970"
        raise file.odd(position, f"{fields.time} before 1970 or after 2248", problem)
    ids = [_required_text(file, position, entry, name) for name in (fields.user, fields.item)]
    for value, is_id in zip(ids, (_is_user, _is_item), strict=True):
        if not is_id(value):
            raise file.odd(position, "not an id", f"{_excerpt(value)} is not an id")
    return *ids, time


def _required(file: ReleaseFile, position: int, entry: dict, name: str) -> object:
    """Return the value of a field, which must be there and say something."""
    value = entry.get(name)
    if value is None or (isinstance(value, str) and (not value.strip() or value in NO_TEXT)):
        raise file.odd(position, f"no {name}", advice="remove the line or complete it")
    return value


def _required_text(file: ReleaseFile, position: int, entry: dict, name: str) -> str:
    """Return the value of a field, which must be a text that says something."""
    value = _required(file, position, entry, name)
    if not isinstance(value, str):
        reason = "is not of type str"
        raise file.odd(position, f"{name} {reason}", f"{name} {_excerpt(value)} {reason}")
    return value


def _is_user(value: object) -> bool:
    """Return whether a value is any text, which files contain in percent-encoding."""
    if type(value) is not str or not value.strip() or value in NO_TEXT:
        return False
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_item(value: object) -> bool:
    """Return whether a value can be an ASIN, the name of a picture's file."""
    return type(value) is str and ASIN.fullmatch(value) is not None and value not in NO_TEXT


def _milliseconds(value: object, unit: int) -> int | None:
    """Return the milliseconds since 1970 of a time: a whole number, also as text, or a date as text; else None.

    Args:
        value: value of a field.
        unit: milliseconds per unit of a number.
    """
    if isinstance(value, str):
        text = value.strip()
        if WHOLE_NUMBER.fullmatch(text):
            return _scale(int(text), unit)
        try:
            value = float(text)
        except ValueError:
            return _milliseconds_of_date(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:  # which is NaN of infinity
        return None
    return _scale(int(value), unit)


def _scale(number: int, unit: int) -> int:
    """Return the milliseconds of a time, which is in a smaller unit than the release's if it is far too large."""
    if number * unit < MAX_TIME:
        return number * unit
    smaller = (number // per_millisecond for per_millisecond in SMALLER_UNITS)
    return next((time for time in smaller if KNOWN_TIMES[0] <= time < KNOWN_TIMES[1]), number * unit)


def _is_rounded(value: object) -> bool:
    """Return whether a value is a text in scientific notation with fewer digits than the number has."""
    match = SCIENTIFIC.fullmatch(value) if isinstance(value, str) else None
    return match is not None and len(match["decimals"]) < int(match["exponent"])


def _milliseconds_of_date(text: str) -> int | None:
    """Return the milliseconds since 1970 of a date in ISO 8601, in UTC if it says nothing else; else None."""
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    date = date.replace(tzinfo=date.tzinfo or UTC)
    return (date - START_OF_TIME) // timedelta(milliseconds=1)


def _excerpt(value: object) -> str:
    """Return the beginning of a value's representation."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "of thousands of digits"


# ---------------------------------------------------------------- metadata


def load_items(
    path: Path, item_ids: list[str], skipped: SkippedLines | None = None
) -> tuple[list[Item | None], list[tuple]]:
    """Read the metadata of the given items; of several lines for one item, the first that says most is used.

    Args:
        path: path of the file.
        item_ids: ASIN of each item.
        skipped: takes the lines that cannot be used; without it, such a line is an error.

    Returns:
        Per item its metadata, or None, and further entries of `skipped.tsv`: (reason, line, ASIN).

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path, line and value.
    """
    skipped = SkippedLines(path) if skipped is None else skipped
    index_of = {asin: index for index, asin in enumerate(item_ids)}
    items: list[Item | None] = [None] * len(item_ids)
    positions = [0] * len(item_ids)
    not_used = []
    entries = track(read_items(path, index_of, skipped), path.name, "items")
    for position, asin, item in entries:
        index = index_of[asin]
        known = items[index]
        if known is not None:
            unused = position if item.wealth() <= known.wealth() else positions[index]
            not_used.append(("a further line for the same item", unused, asin))
        if known is None or unused != position:
            items[index] = item
            positions[index] = position
    skipped.check()
    if not any(items):
        raise ValueError(f"{path}: {_why_none_matched(path, item_ids)}")
    not_used += [("no metadata", "", asin) for asin, item in zip(item_ids, items, strict=True) if item is None]
    return items, not_used


def _why_none_matched(path: Path, item_ids: list[str]) -> str:
    """Return why no entry of a metadata file is of the given items, and what to do."""
    entries = (entry for _, entry, _ in ReleaseFile(path, SkippedLines(path, max_share=1.0)))
    entry = next(entries, None)
    if entry is None:
        return "no metadata in it; download it again"
    first = next((entry[name] for name in BRAND_FIELDS if name in entry), None)
    return (
        f"none of the {len(item_ids)} items is in it; take the metadata of the same category, with ids written as in "
        f"the reviews (its first is {_excerpt(first)}, theirs {_excerpt(item_ids[0])})"
    )


def read_items(
    path: Path, wanted: Container[str], skipped: SkippedLines | None = None
) -> Iterator[tuple[int, str, Item]]:
    """Yield position, ASIN and metadata of each entry whose item is wanted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of what cannot be used, if no more may be passed over.
    """
    skipped = SkippedLines(path) if skipped is None else skipped
    file = ReleaseFile(path, skipped)
    id_field = None
    for position, entry, line in file:
        if "parent_asin" in entry:
            id_field = "parent_asin"
        elif "asin" in entry:
            id_field = "asin"
        if ("user_id" in entry or "reviewerID" in entry) and not METADATA_FIELDS & entry.keys():
            skipped.add(file.odd(position, "a review, not metadata"))
            continue
        asin = entry.get(id_field)
        if type(asin) is str and asin in wanted:
            yield position, asin, describe(entry, BRAND_FIELDS[id_field])
        elif type(asin) is not str or not asin.strip() or asin in NO_TEXT:
            try:
                _required_text(file, position, file.exactly(position, entry, line), id_field or "asin")
            except OddLineError as error:
                skipped.add(error)


def read_objects(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield position and fields of each entry of a release file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of what cannot be parsed, or is cut short.
    """
    file = ReleaseFile(path)
    for position, entry, line in file:
        yield position, file.exactly(position, entry, line)
