"""Read a table of any shape as named columns of strings.

The shape is recognised: compression, encoding, separator, quotation marks, header. Columns are found by their names;
types as RecBole writes them (`user_id:token`) are ignored in them.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from preprocess.raw.table_header import (
    Header,
    assume_interactions,
    assume_items,
    has_header,
    is_certain_header,
    normalize,
)
from preprocess.raw.table_sources import open_source

MAX_LISTED = 12  # names of columns that are shown
MAX_TITLES = 20  # records among which the header is


class TableKind(NamedTuple):
    """What a table without a header may be."""

    flag: str  # that names its columns
    example: str
    assume: Callable[[list[list[str]]], list[str]]  # returns the names of a well-known layout's columns


INTERACTIONS = TableKind("columns", "user,item,rating,time", assume_interactions)
ITEMS = TableKind("item_columns", "item,title", assume_items)


class Table:
    """A table whose shape and columns have been recognised.

    Args:
        path: any file with a table.
        kind: what it is about.
        names: of the columns, if it has no header; empty: those of its header, or of a well-known layout.
        encoding: of a text; empty: it is recognised.
        known: names of columns that are certainly no data.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or has no header; says what to do.
    """

    def __init__(
        self,
        path: Path,
        kind: TableKind = INTERACTIONS,
        names: tuple[str, ...] = (),
        encoding: str = "",
        known: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self._source = open_source(path, encoding)
        self._kind = kind
        self.n_repeated_headers = 0  # lines, in what `rows` has read last
        header = self._name_columns(names, set(map(normalize, known)))
        self._names = [normalize(name) for name in header.names]
        self.names = header.names  # as they are written
        self._has_header = header.is_line
        self._where = f"{path}: {self._source.unit} 1" if header.is_line else str(path)
        self._notes = ([header.note] if header.note else []) + self._source.notes
        # Rows may lack what the header has no name for
        self._min_width = len(self._names)
        while self._min_width and not self._names[self._min_width - 1]:
            self._min_width -= 1

    def _name_columns(self, given: tuple[str, ...], known: set[str]) -> Header:
        source = self._source
        flag = self._kind.flag
        if source.names is not None:
            return Header(source.names, is_line=False)
        rows = _without_empty_ends(source.sample)
        if not rows:
            raise ValueError(f"{self.path}: empty; give a file with a table")
        if source.is_sequence and not given:
            return Header(["user", "item", "time"], is_line=False, note="a user, then items, oldest first")
        width = max(map(len, rows))
        if given:
            if len(given) != width:
                problem = f"{width} columns, but --{flag} names {len(given)}"
                raise ValueError(f"{self.path}: {problem}; name all of them in their order")
            is_line = is_certain_header(rows, known)
            note = f"names by --{flag}" + (", in place of the header's" if is_line else "")
            return Header(list(given), is_line, note)
        self._refuse_lines_above_header(known)
        if has_header(rows, known):
            row_name = [""] if source.has_row_names else []
            note = "the first column, which has no name, is left out" if row_name else ""
            first = next(row for row in source.sample if not _is_blank(row))
            return Header([*row_name, *first], is_line=True, note=note)
        assumed = self._kind.assume(rows)
        if not assumed and min(map(len, rows)) < width - 1:
            problem = f"lines of {min(map(len, rows))} to {width} fields, without a header"
            remedy = "write user, item and time per line, or a user and its items as in: user item item item"
            raise ValueError(f"{self.path}: {problem}; {remedy}")
        if not assumed:
            fields = ", ".join(rows[0][:MAX_LISTED])[:120]
            problem = f"no header above {fields!r}"
            remedy = f"name the {width} columns in their order, as in --{flag} {self._kind.example}"
            raise ValueError(f"{self.path}: line 1: {problem}; {remedy}")
        return Header(assumed, is_line=False, note=f"names assumed, as it has no header; --{flag} gives others")

    def _refuse_lines_above_header(self, known: set[str]) -> None:
        """Raise ValueError if not the first record, but a later one has names that are known."""
        for position, (number, fields) in enumerate(islice(self._source.read([]), MAX_TITLES)):
            n_known = sum(normalize(name) in known for name in fields)
            if n_known and not position:
                return
            if n_known > 1:
                where = f"{self.path}: {self._source.unit} {number}"
                raise ValueError(f"{where}: the header seems to be here; remove what stands above it")

    def describe(self) -> str:
        """Return what was recognised, in one line."""
        named = [name.strip() for name in self.names if name.strip()]
        listed = ", ".join(named[:MAX_LISTED]) + (", …" if len(named) > MAX_LISTED else "")
        noun = "column" if len(named) == 1 else "columns"
        unit = self._source.unit
        if self._source.n_lines != 1:
            unit = "entries" if unit == "entry" else f"{unit}s"
        form = f"{len(named)} {noun} ({listed}), {self._source.form}, {self._source.n_lines:,} {unit}"
        return "; ".join([f"{self.path}: {form}", *self._notes])

    def find(self, candidates: tuple[str, ...]) -> int | None:
        """Return the index of the first candidate that is a column, or None.

        Raises:
            ValueError: several columns have its name.
        """
        for name in map(normalize, candidates):
            if name in self._names:
                if (count := self._names.count(name)) > 1:
                    raise ValueError(f"{self._where}: {count} columns are named {name}; rename all but one")
                return self._names.index(name)
        return None

    def has_several_values(self, column: int) -> bool:
        """Return whether records have lists or objects in a column."""
        return self.names[column] in self._source.nested

    def require(self, flag: str, candidates: tuple[str, ...]) -> int:
        """Return the index of the first candidate that is a column.

        Raises:
            ValueError: none of them is.
        """
        column = self.find(candidates)
        if column is None:
            names = " or ".join(candidates)
            listed = ", ".join(self.names[:MAX_LISTED])[:200]
            remedy = f"--{flag} takes one of the header's columns" + (f" ({listed})" if listed else "")
            if self._has_header:
                remedy += f"; if that is no header, --{self._kind.flag} names the columns"
            raise ValueError(f"{self._where}: no column {names}; {remedy}")
        return column

    def rows(self, columns: list[int | None]) -> Iterator[tuple[str, ...]]:
        """Yield position (path and line) and values of each record; the value of column None is empty.

        Raises:
            ValueError: a line has not as many fields as there are columns, or cannot be read.
        """
        beginning = f"{self.path}: {self._source.unit} "
        for number, values in self._records(columns):
            yield f"{beginning}{number}", *map(str.strip, values)

    def _records(self, columns: list[int | None]) -> Iterator[tuple[object, tuple[str, ...]]]:
        """Yield number and values of each record."""
        source = self._source
        present = [column for column in columns if column is not None]
        records = source.read(present)
        if source.names is not None:
            positions = [present.index(column) if column is not None else -1 for column in columns]
            for number, values in records:
                yield number, _pick([*values, ""], positions)
            return
        if source.is_sequence and self.names == ["user", "item", "time"]:
            records = _pairs(records)
        header = None
        if self._has_header:
            header = next((fields for _, fields in records if not _is_blank(fields)), None)
        self.n_repeated_headers = 0
        width = len(self._names)
        has_absent = len(present) < len(columns)
        positions = [-1 if column is None else column for column in columns]
        pick = itemgetter(*positions) if len(positions) > 1 else lambda fields: _pick(fields, positions)
        for number, fields in records:
            if fields == header:  # of another file that was joined to the first
                self.n_repeated_headers += 1
                continue
            if len(fields) != width:
                fields = self._fit(number, fields)
                if not fields:
                    continue
            if has_absent:
                fields = [*fields, ""]
            yield number, pick(fields)

    def _fit(self, number: object, fields: list[str]) -> list[str]:
        """Return the fields of a line that has more or less than there are columns; none of a blank line.

        Raises:
            ValueError: it cannot be told which is which.
        """
        width = len(self._names)
        length = len(fields)
        while length and not fields[length - 1].strip():
            length -= 1
        if not length:
            return []
        if length > width or len(fields) < self._min_width:
            known_from = "in the header" if self._has_header else "columns"
            problem = f"{len(fields)} fields, but {width} {known_from}"
            remedy = "correct or remove it"
            if length > width:
                remedy += f"; if all lines have so many, --{self._kind.flag} names all columns"
            raise ValueError(f"{self.path}: {self._source.unit} {number}: {problem}; {remedy}")
        return (fields + [""] * width)[:width]


def _is_blank(fields: list[str]) -> bool:
    return not any(map(str.strip, fields))


def _pick(values: list[str], positions: list[int]) -> tuple[str, ...]:
    return tuple(values[position] for position in positions)


def _pairs(records: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """Yield user, item and the item's position from lines of one user and its items."""
    for number, (user, *items) in records:
        for position, item in enumerate(list(filter(None, items)) or [""]):
            yield number, [user, item, str(position)]


def _without_empty_ends(rows: list[list[str]]) -> list[list[str]]:
    """Return rows without the columns at their ends that are empty in all of them, and without blank rows."""
    rows = [[text.strip() for text in row] for row in rows]
    rows = [row for row in rows if any(row)]
    filled = max((index for row in rows for index, text in enumerate(row) if text), default=-1)
    return [row[: filled + 1] for row in rows]
