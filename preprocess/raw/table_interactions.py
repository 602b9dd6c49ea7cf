"""Read interactions from tables (`preprocess.raw.table`): ids, and times that are numbers or dates."""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np

from preprocess.raw.csv_table import DEFAULT_NAMES, ColumnSettings, open_table
from preprocess.raw.id_column import LISTS, IdColumn, UnusableIdError, missing_words, warn_of_lists, warn_of_rounded_ids
from preprocess.raw.interactions import RawInteractions
from preprocess.raw.summary import Summary
from preprocess.raw.time_column import TimeColumn, UnreadableTimeError
from preprocess.raw.time_forms import FORMATS, Times, interpret_times

ROWS_AT_ONCE = 2**12
MAX_LISTED = 4  # words for missing values that a row of the summary names


def read_csv_interactions(path: Path, columns: ColumnSettings, summary: Summary) -> RawInteractions:
    """Read each line as one interaction, and pass over those without user, item or time.

    Args:
        path: the table.
        columns: names of its columns, and how to read them.
        summary: gets rows about the lines and the form of the times, and warnings.

    Returns:
        Interactions in the order of lines.

    Raises:
        FileNotFoundError, ValueError: naming file, line and value.
    """
    return _Reader(path, columns, summary).read()


class _Reader:
    """The columns of a table that are read."""

    def __init__(self, path: Path, columns: ColumnSettings, summary: Summary) -> None:
        self.path = path
        self.table = open_table(path, columns)
        self.columns = columns
        self.summary = summary
        missing = missing_words(columns.missing)
        self.users = IdColumn(missing)
        self.items = IdColumn(missing)
        self.times = TimeColumn(missing, "" if columns.time_format in FORMATS else columns.time_format)
        print(self.table.describe())
        self.selected = self._find_columns()

    def read(self) -> RawInteractions:
        """Read the file."""
        try:
            n_lines = self._collect()
            self.n_repeated_headers = self.table.n_repeated_headers
            if not n_lines:
                raise ValueError(f"{self.path}: no line below a header; give a file with some")
            times = self._interpret_times(n_lines)
        except UnreadableTimeError as error:
            where, text = self._locate(error.row, "time")
            raise ValueError(f"{where}: {text[:40]!r} {error.problem}") from None
        user, user_ids = self._exact_ids("user", self.users)
        item, item_ids = self._exact_ids("item", self.items)
        kept = self._pass_over(user, item, times)
        self.summary.add("form of times", "", times.form)
        for message, row in times.warnings:
            self.summary.warn(message if row is None else f"{message}; {self._quote(row, 'time')}")
        time = times.values[kept[times.present]]
        return RawInteractions(user[kept], item[kept], time, user_ids, item_ids, times.units_per_day)

    # ---------------------------------------------------------------- the file

    def _find_columns(self) -> list[int]:
        """Return the indices of user, item and, unless the order of lines is taken, time."""
        given = {"user": self.columns.user, "item": self.columns.item, "time": self.columns.time}
        names = {kind: (name,) if name else DEFAULT_NAMES[kind] for kind, name in given.items()}
        selected = [self._require(kind, names[kind]) for kind in ("user", "item")]
        if selected[0] == selected[1]:
            name = self.table.names[selected[0]]
            raise ValueError(f"{self.path}: column {name} is that of users and of items; --user and --item name two")
        if self.columns.order_of_lines:
            return selected
        try:
            return [*selected, self._require("time", names["time"])]
        except ValueError as error:
            raise ValueError(f"{error}; without times, --order_of_lines takes each user's lines as in order") from None

    def _require(self, kind: str, names: tuple[str, ...]) -> int:
        """Return the column of a kind, and tell about others that might be it."""
        column = self.table.require(kind, names)
        if kind != "time" and self.table.has_several_values(column):
            raise ValueError(f"{self.path}: {kind} {self.table.names[column]} {LISTS}")
        others = [name for name in names if self.table.find((name,)) not in (None, column)]
        if others:
            self.summary.add(f"column of {kind}s", self.table.names[column], f"not {others[0]}: --{kind} {others[0]}")
        return column

    def _collect(self) -> int:
        """Read the columns and return the number of lines."""
        rows = self.table.rows(self.selected)
        n_lines = 0
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            _, users, items, *times = zip(*batch, strict=True)
            self.users.extend(users)
            self.items.extend(items)
            if times:
                self.times.extend(times[0])
            n_lines += len(batch)
        return n_lines

    def _locate(self, row: int, kind: str) -> tuple[str, str]:
        """Return the position (path and line) of a row and its user, item or time."""
        where, *values = next(islice(self.table.rows(self.selected), row, None))
        return where, values[("user", "item", "time").index(kind)]

    def _quote(self, row: int, kind: str) -> str:
        where, text = self._locate(row, kind)
        return f"{where}: {text[:40]!r}"

    # ---------------------------------------------------------------- its values

    def _interpret_times(self, n_lines: int) -> Times:
        if self.columns.order_of_lines:
            return Times(np.arange(n_lines), np.ones(n_lines, bool), None, "none, the order is that of the lines", [])
        return interpret_times(self.times, self.columns.time_format)

    def _exact_ids(self, kind: str, column: IdColumn) -> tuple[np.ndarray, list[str]]:
        """Return numbers and encoded ids of a column, or raise ValueError where ids look the same."""
        try:
            numbers, ids = column.finish()
        except UnusableIdError as error:
            where, _ = self._locate(column.first_row(error.text), kind)
            raise ValueError(f"{where}: {kind} {error}") from None
        for warning in filter(None, (warn_of_rounded_ids(column.texts), warn_of_lists(column.texts))):
            self.summary.warn(f"{kind}s: {warning}")
        return numbers, ids

    def _pass_over(self, user: np.ndarray, item: np.ndarray, times: Times) -> np.ndarray:
        """Return which rows have user, item and time, bool (N,), and tell about the others."""
        self.summary.add("lines read", len(user))
        self.summary.add_passed_over("header repeated", self.n_repeated_headers)
        kept = np.ones(len(user), bool)
        reasons = {}
        for kind, present in (("user", user >= 0), ("item", item >= 0), ("time", times.present)):
            rows = np.flatnonzero(kept & ~present)
            if len(rows):
                reasons[kind] = len(rows), self._describe(kind, rows)
                self.summary.add_passed_over(f"no {kind}", *reasons[kind])
            kept &= present
        if not kept.any():
            kind = max(reasons, key=lambda reason: reasons[reason][0])
            count, remark = reasons[kind]
            problem = f"no {kind} in {count:,} of {len(user):,} lines, and too little in the others ({remark})"
            raise ValueError(f"{self.path}: {problem}; --{kind} takes another column, --missing the words for no value")
        return kept

    def _describe(self, kind: str, rows: np.ndarray) -> str:
        """Return what stands in rows, int (n,), where a value is missing, how often, and where first."""
        if kind == "time":
            words = [self.times.missing_rows[row] for row in rows.tolist()]
        else:
            words = (self.users if kind == "user" else self.items).missing_texts(rows)
        counts = Counter(words).most_common()
        listed = [f"{word!r} {count:,}" if word else f"empty {count:,}" for word, count in counts[:MAX_LISTED]]
        where, _ = self._locate(int(rows[0]), kind)
        hint = "" if kind == "time" or not any(words) else "; --missing '' keeps such ids"
        return f"{', '.join(listed)}; first in {where.removeprefix(f'{self.path}: ')}{hint}"
