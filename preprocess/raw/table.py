"""Read a table of any shape as named columns of strings.

The separator is recognised by the header, columns by their names. Types as RecBole writes them (`user_id:token`) are
ignored in names.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

SEPARATORS = ",\t;"


def read_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield position (path and line) and fields of each line that is not blank, the header first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming the line that cannot be read.
    """
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = _recognise_separator(file.readline())
            file.seek(0)
            quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL  # quotation marks are text in TSV
            reader = csv.reader(file, delimiter=separator, quoting=quoting, strict=True)
            for fields in reader:
                number = reader.line_num
                if fields:
                    yield f"{path}: line {number}", fields
    except csv.Error as error:
        raise ValueError(f"{path}: after line {number}: {error}; correct the quotation marks or the line") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: after line {number}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def _recognise_separator(header: str) -> str:
    """Return the separator that splits the header into the most fields."""

    def n_fields(separator: str) -> int:
        return len(next(csv.reader([header], delimiter=separator), []))

    return max(SEPARATORS, key=n_fields)


class Table:
    """A table whose header has been read.

    Args:
        path: path of a file with a header.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the header cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._rows = read_rows(path)
        self._where, self._header = next(self._rows, (str(path), []))
        self._names = [_normalize(name) for name in self._header]

    @property
    def names(self) -> list[str]:
        """The names of all columns, as the header has them."""
        return self._header

    def find(self, candidates: tuple[str, ...]) -> int | None:
        """Return the index of the first candidate that the header has, or None."""
        for name in map(_normalize, candidates):
            if name in self._names:
                return self._names.index(name)
        return None

    def require(self, flag: str, candidates: tuple[str, ...]) -> int:
        """Return the index of the first candidate that the header has.

        Raises:
            ValueError: it has none of them.
        """
        column = self.find(candidates)
        if column is None:
            names = " or ".join(candidates)
            raise ValueError(f"{self._where}: no column {names}; --{flag} takes one of the header's columns")
        return column

    def rows(self, columns: list[int | None]) -> Iterator[tuple[str, ...]]:
        """Yield position (path and line) and values of each line; the value of column None is empty.

        Raises:
            ValueError: a line has not as many fields as the header.
        """
        for where, fields in self._rows:
            if len(fields) != len(self._header):
                problem = f"{len(fields)} fields, but {len(self._header)} in the header"
                raise ValueError(f"{where}: {problem}; correct or remove it")
            yield where, *("" if column is None else fields[column].strip() for column in columns)


def _normalize(name: str) -> str:
    """Return a column's name without RecBole's type, in lower case."""
    return name.partition(":")[0].strip().lower()
