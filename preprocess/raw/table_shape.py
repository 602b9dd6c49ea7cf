"""Recognise the shape of a text table by its first lines: separator, quotation marks, row names, header."""

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

# Of separators that fit equally well, the first is taken
SEPARATORS = {"\t": "tabs", "::": "::", ",": "commas", ";": "semicolons", "|": "|", "\x01": "Ctrl-A (Hive)"}
SPACES = " "  # runs of them; taken only if no other separator fits
WORDS = SEPARATORS | {SPACES: "spaces"}
QUOTED = ",;"  # separators of tables in which quotation marks are no text, unless proven otherwise
MAX_FIELD = 2**28  # characters; csv refuses longer ones than 131,072 by default
MIN_CONSISTENT = 0.8  # share of the lines with the most frequent number of fields
SEPARATOR_LINE = re.compile(r'"?sep=(.|\\t)"?\s*', re.IGNORECASE)  # Excel's
COMMENT = re.compile(r"[%#]")  # begins the first lines of graphs (KONECT, SNAP)
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?!\d).*")
ASIN = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
ID = re.compile(r"[\w.:%-]*\d[\w.:%-]*", re.ASCII)  # in a file of one line per user


class Dialect(NamedTuple):
    """How lines are split into fields."""

    separator: str
    is_quoted: bool = False  # quotation marks around a field are none of its text
    is_escaped: bool = False  # quotation marks within a field have a backslash before them


@dataclass
class Shape:
    """What the first lines tell."""

    dialect: Dialect
    skipped: int = 0  # lines above header or data: sep=…, comments
    has_row_names: bool = False  # lines begin with a field that the header has not
    is_sequence: bool = False  # one line per user: user item item …
    notes: list[str] = field(default_factory=list)


def split_lines(lines: Iterable[str], dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line and the fields of each record that is not blank, the first line being 1.

    Raises:
        csv.Error: quotation marks that do not match.
    """
    separator = dialect.separator
    if len(separator) > 1:
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\r\n")
            if line:
                yield number, line.split(separator)
        return
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(
        lines,
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if dialect.is_quoted else csv.QUOTE_NONE,
        escapechar="\\" if dialect.is_escaped else None,
        skipinitialspace=dialect.is_quoted or separator == SPACES,
        strict=True,
    )
    for fields in reader:
        if fields:
            yield reader.line_num, fields


def has_records_within(fields: list[str], separator: str) -> bool:
    """Return whether a quoted field has swallowed whole lines of a table, as behind a mark that nobody closed."""
    within = [field.splitlines()[1:-1] for field in fields if "\n" in field]
    return any(len(lines) > 1 and all(line.count(separator) == len(fields) - 1 for line in lines) for lines in within)


def is_value(text: str) -> bool:
    """Return whether a field is a number or begins like a date, which names of columns are not."""
    text = text.strip()
    return bool(NUMBER.fullmatch(text) or DATE.fullmatch(text))


# ---------------------------------------------------------------- separator


def recognise_shape(lines: list[str]) -> Shape:
    """Return the shape of a table, apart from its quotation marks (`recognise_quotes`).

    Args:
        lines: the first lines of the file, with their ends.
    """
    skipped = 0
    notes = []
    given = SEPARATOR_LINE.fullmatch(lines[0].rstrip("\r\n")) if lines else None
    if given:
        skipped = 1
    while skipped < len(lines) - 1 and COMMENT.match(lines[skipped]) and not _is_marked_header(lines[skipped:]):
        skipped += 1
    n_comments = skipped - bool(given)
    if n_comments:
        notes.append(f"{n_comments} lines of comment above" if n_comments > 1 else "a line of comment above")
    lines = [line for line in lines[skipped:] if line.strip()]
    separator = given[1].replace("\\t", "\t") if given else _recognise_separator(lines)
    shape = Shape(Dialect(separator, is_quoted=separator in QUOTED), skipped, notes=notes)
    rows = _split_sample(lines, separator)
    shape.has_row_names = _has_row_names(rows)
    shape.is_sequence = not shape.has_row_names and _is_sequence(rows)
    return shape


def _is_marked_header(lines: list[str]) -> bool:
    """Return whether a line that begins like a comment has the names of the columns of the next one."""
    if COMMENT.match(lines[1]):
        return False
    return any(len(lines[0].split(separator)) == len(lines[1].split(separator)) > 1 for separator in SEPARATORS)


def _split_sample(lines: list[str], separator: str) -> list[list[str]]:
    """Split lines, minding quotation marks if that reads most of them."""
    rows = []
    try:
        rows.extend(fields for _, fields in split_lines(lines, Dialect(separator, is_quoted=len(separator) == 1)))
    except csv.Error:
        if len(rows) < len(lines) / 2:
            return [fields for _, fields in split_lines(lines, Dialect(separator))]
    return rows


def _recognise_separator(lines: list[str]) -> str:
    """Return the separator that splits most lines into the same number of fields, the first line included."""
    best = ""
    most = 1
    n_first = {}  # fields of the first line
    for separator in WORDS:
        rows = _split_sample(lines, separator)
        n_first[separator] = len(rows[0]) if rows else 0
        if separator == SPACES and best and not (best == "," and _has_decimal_commas(lines)):
            continue
        n_fields = max(_common_width(rows), _common_width([_without_trailing(row) for row in rows]))
        if n_fields > most:
            best = separator
            most = n_fields
    # Otherwise the first line decides, and lines that differ from it are reported
    return best or max(WORDS, key=n_first.__getitem__)


def _common_width(rows: list[list[str]]) -> int:
    """Return the number of fields of most rows; 0 unless nearly all have it, and the first one that or one less."""
    if not rows or len(rows[0]) < 2:
        return 0
    counts = Counter(map(len, rows[1:] or rows))
    n_fields, n_rows = counts.most_common(1)[0]
    is_consistent = n_rows >= MIN_CONSISTENT * counts.total()
    return n_fields if is_consistent and len(rows[0]) in (n_fields, n_fields - 1) else 0  # row names have no name


def _has_decimal_commas(lines: list[str]) -> bool:
    """Return whether all commas stand between digits."""
    return "," not in re.sub(r"(?<=\d),(?=\d)", "", "".join(lines))


def _without_trailing(row: list[str]) -> list[str]:
    """Return fields without empty ones at the end."""
    length = len(row)
    while length > 1 and not row[length - 1].strip():
        length -= 1
    return row[:length]


def _has_row_names(rows: list[list[str]]) -> bool:
    """Return whether lines begin with rising numbers that the header has no name for, as R writes them."""
    if len(rows) < 2 or any(is_value(name) for name in rows[0]):
        return False
    width = len(rows[0]) + 1
    names = [row[0] for row in rows[1:]]
    return (
        all(len(row) == width for row in rows[1:])
        and any(row[-1] for row in rows[1:])
        and all(name.isascii() and name.isdigit() for name in names)
        and all(int(name) < int(other) for name, other in pairwise(names))
    )


def _is_sequence(rows: list[list[str]]) -> bool:
    """Return whether each line is one user's, with as many items as there are."""
    rows = [_without_trailing(row) for row in rows]
    if len(rows) < 2 or len({row[0] for row in rows}) < len(rows):
        return False
    if not all(ID.fullmatch(word) for row in rows for word in row):
        return False
    n_rows = len(rows)
    rows = [row for row in rows if len(row) > 1]  # a user may have no items
    if len(rows) <= n_rows / 2:
        return False
    counts = Counter(map(len, rows))
    has_one_width = counts.most_common(1)[0][1] >= MIN_CONSISTENT * len(rows)
    return not has_one_width or all(len(row) > 2 and all(map(ASIN.fullmatch, row[1:])) for row in rows)


# ---------------------------------------------------------------- quotation marks


def recognise_quotes(read_lines: Callable[[], Iterator[str]], dialect: Dialect) -> Dialect:
    """Return the dialect with what all lines tell about their quotation marks.

    Programs put them around fields that contain a separator or a quotation mark, which is then doubled or has a
    backslash before it, or around all fields; where they are text, they stand alone.

    Args:
        read_lines: starts to read all lines of the file.
        dialect: with its separator.
    """
    if len(dialect.separator) > 1:
        return dialect
    is_escaped = _is_escaped(read_lines(), dialect.separator)
    quoted = dialect._replace(is_quoted=True, is_escaped=is_escaped)
    if dialect.separator in QUOTED or is_escaped:
        return quoted
    plain = dialect._replace(is_quoted=False)
    n_odd_plain = _count_odd(read_lines(), plain)
    n_odd_quoted = _count_odd(read_lines(), quoted)
    if n_odd_plain != n_odd_quoted:
        return quoted if n_odd_quoted < n_odd_plain else plain
    return quoted if _are_around_fields(read_lines(), dialect.separator) else plain


def _count_odd(lines: Iterable[str], dialect: Dialect) -> float:
    """Return the number of records that have not as many fields as most; infinity if some cannot be read."""
    try:
        counts = Counter(len(fields) for _, fields in split_lines(lines, dialect))
    except csv.Error:
        return math.inf
    return counts.total() - max(counts.values(), default=0)


def _are_around_fields(lines: Iterable[str], separator: str) -> bool:
    """Return whether quotation marks, in lines that may be read either way, are around fields and not their text."""
    bounded = re.compile(rf'(?:^|(?<={re.escape(separator)}))"((?:[^"]|"")*)"(?={re.escape(separator)}|$)')
    n_lines = 0
    n_bounded = 0
    for line in lines:
        text = line.rstrip("\r\n")
        inner = bounded.findall(text)
        if any('"' in part for part in inner) or (not n_lines and len(inner) == len(text.split(separator))):
            return True
        n_lines += 1
        n_bounded += len(inner)
    return n_bounded >= n_lines - 1  # all fields of a column


def _is_escaped(lines: Iterable[str], separator: str) -> bool:
    """Return whether quotation marks within quoted fields have a backslash before them."""
    mark = re.escape(separator)
    within = re.compile(rf'(?:^|{mark}) *"(?:[^"\\]|\\.|"")*\\"(?!["\r\n]|{mark}|$)')
    return any('\\"' in line and within.search(line) for line in lines)
