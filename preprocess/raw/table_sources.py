"""Read the records of a file that contains a table: text, JSON, an Excel workbook, Parquet or Arrow."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from preprocess.raw.file_content import Content, Text, recognise_content, recognise_text
from preprocess.raw.line_parser import LineParser
from preprocess.raw.table_shape import (
    WORDS,
    Dialect,
    has_records_within,
    recognise_quotes,
    recognise_shape,
    split_lines,
)

N_SAMPLE = 200  # records by which a shape is recognised
MAX_SAMPLE = 2**22  # characters of them
N_JSON_SAMPLE = 1000  # objects whose fields are the columns
MONGO_TYPES = ("$oid", "$date", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal")
JSON_OBJECT = re.compile(rb"""\s*\{\s*(u?["']|\}|$)""")
JSON_ARRAY = re.compile(rb"\s*\[\s*[{[]")


@dataclass
class Source:
    """The records of a file.

    `read` yields number and values of each record. If the format has names of columns, it takes the columns to read and
    yields theirs alone; otherwise it yields all fields, and the first record may be a header.
    """

    form: str  # what the file is, for people
    n_lines: int
    read: Callable[[list[int]], Iterator[tuple[object, list[str]]]]
    names: list[str] | None = None
    sample: list[list[str]] = field(default_factory=list)  # the first records, of a source without names
    nested: set[str] = field(default_factory=set)  # names of columns with several values in one
    unit: str = "line"  # what the number counts
    has_row_names: bool = False
    is_sequence: bool = False
    notes: list[str] = field(default_factory=list)


def open_source(path: Path, encoding: str = "") -> Source:
    """Recognise what a file contains.

    Args:
        path: any file.
        encoding: of a text; empty: it is recognised.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no table that can be read; says what to do.
    """
    content = recognise_content(path)
    if content.kind == "Excel":
        source = _excel_source(content)
    elif content.kind != "text":
        source = _columnar_source(content)
    else:
        text = recognise_text(content, encoding)
        beginning = content.head.decode(text.encoding, errors="ignore").encode()
        if JSON_OBJECT.match(beginning):
            source = _json_lines_source(content, text)
        elif JSON_ARRAY.match(beginning):
            source = _json_array_source(content, text)
        else:
            source = _text_source(content, text)
        source.notes += [text.note] if text.note else []
    source.notes += content.notes
    return source


# ---------------------------------------------------------------- text


@contextmanager
def _open_lines(content: Content, text: Text) -> Iterator[Iterator[str]]:
    """Open the lines of a text, their ends kept.

    Raises:
        ValueError: it is of another encoding.
    """
    try:
        with content.open() as file, io.TextIOWrapper(file, text.encoding, newline="") as lines:
            yield (line.removeprefix("\ufeff") for line in lines)  # files joined to one have further marks within
    except UnicodeDecodeError as error:
        problem = f"not {text.encoding.upper()} ({error.reason})"
        raise ValueError(f"{content.path}: {problem}; save it as UTF-8, or give its --encoding") from error


def _text_source(content: Content, text: Text) -> Source:
    """Return the records of a text with one line per record, but for line ends within quotation marks."""
    sample = []
    n_characters = 0
    with _open_lines(content, text) as lines:
        for line in islice(lines, N_SAMPLE):
            sample.append(line)
            n_characters += len(line)
            if n_characters > MAX_SAMPLE:
                break
    shape = recognise_shape(sample)
    dialect = shape.dialect

    def read_lines() -> Iterator[str]:
        with _open_lines(content, text) as lines:
            yield from islice(lines, shape.skipped, None)

    if text.has_quotes:
        dialect = recognise_quotes(read_lines, dialect)
        if dialect.separator != "," and dialect.is_quoted:
            shape.notes.append("quotation marks around fields")
        if dialect.is_escaped:
            shape.notes.append("backslashes before quotation marks")
    records = _read_records(content.path, read_lines(), dialect, shape.skipped)
    rows = []
    try:
        rows.extend(fields for _, fields in islice(records, N_SAMPLE))
    except ValueError:  # which is raised again when all is read
        if not rows:
            raise
    return Source(
        form="one user per line"
        if shape.is_sequence
        else f"separated by {WORDS.get(dialect.separator, dialect.separator)}",
        n_lines=text.n_lines,
        read=lambda columns: _read_records(content.path, read_lines(), dialect, shape.skipped),
        sample=rows,
        has_row_names=shape.has_row_names,
        is_sequence=shape.is_sequence,
        notes=shape.notes,
    )


def _read_records(path: Path, lines: Iterator[str], dialect: Dialect, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each record.

    Raises:
        ValueError: naming the line that cannot be read.
    """
    number = 0
    previous = 0
    try:
        for number, fields in split_lines(lines, dialect):
            if number - previous > 3 and has_records_within(fields, dialect.separator):
                problem = (
                    f"a quotation mark is closed in line {number + skipped}, with whole records before; correct it"
                )
                raise ValueError(f"{path}: line {previous + skipped + 1}: {problem}")
            previous = number
            yield number + skipped, fields
    except csv.Error as error:
        problem = f"{error}; correct the quotation marks or the line"
        raise ValueError(f"{path}: after line {number + skipped}: {problem}") from error


# ---------------------------------------------------------------- JSON


def _json_lines_source(content: Content, text: Text) -> Source:
    """Return the records of a text with one object per line, in JSON or as a Python literal."""

    def read_objects() -> Iterator[tuple[int, dict]]:
        parser = LineParser(content.path)
        with _open_lines(content, text) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, parser.parse_quickly(number, line.encode())

    way_out = "write one per line, in pandas with to_json(orient='records', lines=True)"
    sample: list[dict] = []
    try:
        sample.extend(entry for _, entry in islice(read_objects(), N_JSON_SAMPLE))
    except ValueError as error:
        if sample:
            raise
        raise ValueError(f"{content.path}: one JSON object over several lines; {way_out}") from error
    columns, nested = _json_columns(sample)
    if len(sample) == 1 and nested:
        raise ValueError(f"{content.path}: one JSON object with all records in it; {way_out}")

    def read(selected: list[int]) -> Iterator[tuple[int, list[str]]]:
        wanted = [columns[index] for index in selected]
        for number, entry in read_objects():
            yield number, [to_text(entry.get(name)) for name in wanted]

    return Source("one JSON object per line", text.n_lines, read, columns, nested=nested)


def _json_columns(entries: list[dict]) -> tuple[list[str], set[str]]:
    """Return the names of all fields, and of those that have lists or objects."""
    columns = list(dict.fromkeys(str(name) for entry in entries for name in entry))
    nested = {str(name) for entry in entries for name, value in entry.items() if isinstance(_plain(value), list | dict)}
    return columns, nested


def _json_array_source(content: Content, text: Text) -> Source:
    """Return the records of a text that is one array of objects, or of arrays."""
    with _open_lines(content, text) as file:
        try:
            entries = json.loads("".join(file))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{content.path}: not a JSON array ({error}); download it again") from error
    if all(isinstance(entry, list) for entry in entries):
        rows = [[to_text(value) for value in entry] for entry in entries]
        form = "a JSON array of arrays"
        return Source(form, len(rows), lambda columns: enumerate(rows, 1), sample=rows[:N_SAMPLE], unit="entry")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            problem = f"a mapping of field names is expected, not {type(entry).__name__}"
            raise ValueError(f"{content.path}: entry {number}: {problem}; remove it")
    columns, nested = _json_columns(entries[:N_JSON_SAMPLE])

    def read(selected: list[int]) -> Iterator[tuple[int, list[str]]]:
        wanted = [columns[index] for index in selected]
        for number, entry in enumerate(entries, 1):
            yield number, [to_text(entry.get(name)) for name in wanted]

    return Source("a JSON array of objects", len(entries), read, columns, nested=nested, unit="entry")


def _plain(value: object) -> object:
    """Return what MongoDB wraps, as {"$oid": …}, or the text that bytes are; other values as they are."""
    while isinstance(value, dict) and len(value) == 1 and next(iter(value)) in MONGO_TYPES:
        (value,) = value.values()
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def to_text(value: object) -> str:
    """Return a value of JSON as a field of a table; several ones separated by commas."""
    if isinstance(value, str):
        return value
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(to_text, value))
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


# ---------------------------------------------------------------- through Arrow


@contextmanager
def _explain_unreadable(path: Path, what: str) -> Iterator[None]:
    """Raise whatever a library raises on a damaged file as a ValueError that names the file.

    Raises:
        ValueError: also if the library is not installed.
    """
    try:
        yield
    except ImportError:
        way_out = "pip install -r requirements-extras.txt for the packages that read it, or save it as CSV"
        raise ValueError(f"{path}: {what}; {way_out}") from None
    except (KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit):
        raise
    except BaseException as error:  # panics of Rust are no Exception
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: {what} that cannot be read ({reason}); download it again, or save it as CSV"
        ) from error


def _excel_source(content: Content) -> Source:
    """Return the records of a workbook's first sheet that is not empty, and of further ones with the same header."""
    what = "an Excel workbook"
    sheets = []
    with _explain_unreadable(content.path, what), content.open() as file:
        import fastexcel
        import pyarrow  # noqa: F401 - in which fastexcel returns sheets

        workbook = fastexcel.read_excel(file.read())
        for name in workbook.sheet_names:
            sheet = workbook.load_sheet(name, header_row=None, skip_rows=0, dtypes="string")
            columns = [column.to_pylist() for column in sheet.to_arrow().columns] if sheet.total_height else []
            rows = [[value or "" for value in values] for values in zip(*columns, strict=True)]
            if any(any(row) for row in rows):
                sheets.append((name, rows))
    if not sheets:
        return Source(what, 0, lambda columns: iter(()), unit="row")
    first_row = sheets[0][1][0]
    tables = [(name, rows) for name, rows in sheets if rows[0] == first_row]
    left_out = [repr(name) for name, rows in sheets if rows[0] != first_row]

    def read(columns: list[int]) -> Iterator[tuple[str, list[str]]]:
        for position, (name, rows) in enumerate(tables):
            for number, row in enumerate(rows, 1):
                is_repeated_header = position and number == 1
                if any(row) and not is_repeated_header:
                    yield f"{number} of sheet {name!r}", row

    notes = [f"not read: sheet {', '.join(left_out)}, whose first row is another"] if left_out else []
    form = f"{what}, sheet {', '.join(repr(name) for name, _ in tables)}"
    sample = [row for _, row in islice(read([]), N_SAMPLE)]
    return Source(form, sum(len(rows) for _, rows in tables), read, sample=sample, unit="row", notes=notes)


def _columnar_source(content: Content) -> Source:
    """Return the records of a file in the formats Parquet or Arrow."""
    what = f"a file in the format {content.kind}"
    with _explain_unreadable(content.path, what), content.open() as file:
        import pyarrow

        if content.kind == "Parquet":
            from pyarrow.parquet import ParquetFile

            parquet = ParquetFile(pyarrow.BufferReader(file.read()) if content.layers else content.path)
            schema = parquet.schema_arrow
            n_rows = parquet.metadata.num_rows
        else:
            arrow = pyarrow.ipc.open_file(file.read()).read_all()
            schema = arrow.schema
            n_rows = arrow.num_rows
        names = schema.names
        nested = {column.name for column in schema if pyarrow.types.is_nested(column.type)}

    def read_batches(selected: list[str]) -> Iterator:
        if content.kind == "Parquet":
            return parquet.iter_batches(columns=selected)
        return iter(arrow.select(selected).to_batches())

    def read(columns: list[int]) -> Iterator[tuple[int, list[str]]]:
        selected = [names[index] for index in dict.fromkeys(columns)]
        number = 0
        with _explain_unreadable(content.path, what):
            for batch in read_batches(selected):
                series = [_arrow_texts(batch.column(names[index])) for index in columns]
                for values in zip(*series, strict=True):
                    number += 1
                    yield number, values

    return Source(what, n_rows, read, names, nested=nested, unit="row")


def _arrow_texts(column) -> list[str]:
    """Return the values of an Arrow column as fields of a table; times in UTC."""
    import pyarrow

    if pyarrow.types.is_timestamp(column.type):
        column = column.cast(pyarrow.timestamp(column.type.unit)).cast(pyarrow.string())
    return [to_text(value) for value in column.to_pylist()]
