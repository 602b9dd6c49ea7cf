"""Read the entries of a release file, whatever holds them: lines, a JSON array or a table, compressed or not."""

import ast
import contextlib
import csv
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from preprocess.raw.file_content import BYTE_ORDER_MARKS, recognise_content
from preprocess.raw.line_parser import NO_MAPPING, LineParser
from preprocess.raw.skipped_lines import OddLineError, SkippedLines

MAX_LINE_BYTES = 2**24
CHUNK = 2**20  # characters of an array that are read at once
DAMAGES = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)  # OSError: those without a number
UTF8_BOM = b"\xef\xbb\xbf"
ARRAY = re.compile(rb"\s*\[\s*[{\]]")
OBJECTS_OVER_LINES = re.compile(rb'\s*\{\s*\n\s*"')
# In lists as NumPy prints them, a blank stands where a comma belongs
NUMPY_TOKEN = re.compile(
    r"""
      (?P<value> '(?:[^'\\]|\\.)*+' | "(?:[^"\\]|\\.)*+" | []}] | \bNone\b ) (?P<blank> \s+ (?=['"[{]|None\b) )?
    | \barray\( (?=\[)
    | (?<=\]) (?: , \s* dtype=\w+ )? \)
    """,
    re.VERBOSE | re.DOTALL,
)
BETWEEN_OBJECTS = re.compile(r"[\s,]*")
SEPARATORS = ",\t;|"
ID_COLUMNS = {"asin", "parent_asin"}  # a table has one of them
ONE_LINE_EACH = "one entry per line, or a JSON array of them, is expected"


class ReleaseFile:
    """The entries of a release file, one after the other.

    Attributes:
        path: path of the file.
        unit: what an entry's position counts: "line" or, of objects over several lines, "entry".
    """

    def __init__(self, path: Path, skipped: SkippedLines | None = None) -> None:
        """Recognise the form of a file.

        Args:
            path: path of the file.
            skipped: takes what cannot be parsed; without it, that is an error.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file of a kind that is not read; names the way out.
        """
        self.path = path
        self._skipped = SkippedLines(path) if skipped is None else skipped
        self._parser = LineParser(path)
        self._position = 0
        self._content = recognise_content(path)
        if self._content.kind != "text":
            advice = "write it as JSON lines, for example with polars (write_ndjson), and give that file"
            raise ValueError(f"{path}: a table of {self._content.kind}; {advice}")
        head = self._content.head
        for mark, encoding in BYTE_ORDER_MARKS[1:]:
            if head.startswith(mark):
                raise ValueError(f"{path}: {encoding.upper()}; save it as UTF-8")
        head = head.removeprefix(UTF8_BOM)
        self._separator = _table_separator(head)
        self._over_lines = bool(ARRAY.match(head) or OBJECTS_OVER_LINES.match(head)) or _has_more_on_its_line(head)
        self.unit = "entry" if self._over_lines else "line"
        if self._separator is None and not self._over_lines and _looks_like_a_table(head):
            raise ValueError(
                f"{path}: a table without asin or parent_asin in its first line; python -m preprocess.own reads tables"
            )

    def __iter__(self) -> Iterator[tuple[int, dict, bytes | None]]:
        """Yield position, fields, and the line for `exactly`, of each entry that can be parsed.

        Raises:
            ValueError: the file is damaged, or too much of it cannot be parsed; names the position.
        """
        if self._separator:
            return self._read_table()
        return self._read_objects() if self._over_lines else self._read_lines()

    def exactly(self, position: int, entry: dict, line: bytes | None) -> dict:
        """Return an entry with all its integers, of which those beyond 64 bits may have become floats."""
        return entry if line is None else self._parser.parse(position, line)

    def odd(self, position: int, reason: str, problem: str = "", advice: str = "") -> OddLineError:
        """Return the error of an entry that cannot be used (`OddLineError`)."""
        return OddLineError(self.path, f"{self.unit} {position}", reason, problem, advice)

    @contextlib.contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        """Open the content below all compression; tell after which entry it is damaged."""
        with self._content.open() as file:
            try:
                yield io.BufferedReader(file) if isinstance(file, zipfile.ZipExtFile) else file
            except DAMAGES as error:
                if getattr(error, "errno", None) is not None:  # of the operating system
                    raise
                where = f"damaged after {self.unit} {self._position}"
                raise ValueError(f"{self.path}: {where} ({error}); download it again") from error

    # ---------------------------------------------------------------- one entry per line

    def _read_lines(self) -> Iterator[tuple[int, dict, bytes]]:
        parse = self._parser.parse_quickly
        for number, line in self._lines():
            try:
                entry = parse(number, line)
            except OddLineError as error:
                if not line.endswith(b"\n") and error.reason != NO_MAPPING:
                    error.reason = "cut short at the end of the file"
                self._skipped.add(error)
                continue
            yield number, entry, line

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and content of each line that is neither blank nor too long."""
        number = 0
        n_blank = 0
        with self._open() as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                self._position = number
                if len(line) == MAX_LINE_BYTES:
                    problem = f"longer than {MAX_LINE_BYTES:,} bytes"
                    self._skipped.add(self.odd(number, problem, advice="take a release file"))
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE_BYTES)
                elif line.strip():
                    yield number, line
                else:
                    n_blank += 1
        self._skipped.n_lines = number - n_blank

    # ---------------------------------------------------------------- objects over several lines, in an array or not

    def _read_objects(self) -> Iterator[tuple[int, dict, None]]:
        """Decode one object after the other; nothing is known behind one that cannot be decoded."""
        decode = json.JSONDecoder().raw_decode
        with self._open() as file:
            text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape")
            content = text.read(CHUNK)
            place = BETWEEN_OBJECTS.match(content).end()
            is_array = content[place] == "["
            place += is_array
            while True:
                place = BETWEEN_OBJECTS.match(content, place).end()
                try:
                    if content.startswith("]", place):
                        break
                    entry, place = decode(content, place)
                except (ValueError, RecursionError) as error:
                    # Cut by the end of what has been read so far, or no JSON
                    more = text.read(CHUNK)
                    if not more and place == len(content) and not is_array:
                        break
                    if not more or len(content) - place > MAX_LINE_BYTES:
                        raise self._unreadable(content[place:]) from error
                    content = content[place:] + more
                    place = 0
                    continue
                self._position += 1
                if isinstance(entry, dict):
                    yield self._position, entry, None
                else:
                    self._skipped.add(self.odd(self._position, NO_MAPPING))
            if (content[place + is_array :] + text.read(CHUNK)).strip():
                raise ValueError(f"{self.path}: more follows the JSON array; {ONE_LINE_EACH}")
        self._skipped.n_lines = self._position

    def _unreadable(self, content: str) -> ValueError:
        where = f"entry {self._position + 1}"
        if not content:
            return ValueError(f"{self.path}: cut short at {where}, the JSON array does not end; download it again")
        return ValueError(f"{self.path}: {where}: not JSON, or cut short: {content[:60]!r}; {ONE_LINE_EACH}")

    # ---------------------------------------------------------------- a table with the names of fields above it

    def _read_table(self) -> Iterator[tuple[int, dict, None]]:
        csv.field_size_limit(MAX_LINE_BYTES)
        with self._open() as file:
            text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
            reader = csv.reader(text, delimiter=self._separator, strict=True)
            try:
                names = [name.strip() for name in next(reader)]
            except csv.Error as error:
                raise ValueError(f"{self.path}: line 1: {error}; correct the quotation marks") from error
            if "history" in names:
                raise ValueError(
                    f"{self.path}: a part of a split, with a column history; take the file with all reviews instead "
                    "(of the release of 2023: the category's CSV of rating_only)"
                )
            n_rows = 0
            while True:
                self._position = reader.line_num + 1
                try:
                    fields = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    if reader.line_num > self._position:  # unknown how many entries are in it
                        advice = "correct the quotation marks"
                        raise ValueError(f"{self.path}: line {self._position}: {error}; {advice}") from error
                    fields = None
                if fields == []:
                    continue
                n_rows += 1
                if fields is None or len(fields) != len(names):
                    problem = "not as many fields as the header, or quotation marks inside"
                    self._skipped.add(self.odd(self._position, problem))
                    continue
                yield self._position, dict(zip(names, map(_cell_value, fields), strict=True)), None
        self._skipped.n_lines = n_rows


def _has_more_on_its_line(head: bytes) -> bool:
    """Return whether another JSON object, or a comma, follows the first one before the end of its line."""
    line = head.split(b"\n", 1)[0].decode(errors="replace").strip()
    try:
        _, end = json.JSONDecoder().raw_decode(line)
    except (ValueError, RecursionError):
        return False
    return line.startswith("{") and line[end:].strip()[:1] in ("{", ",")


def _table_separator(head: bytes) -> str | None:
    """Return the separator of a table with a known header; None of any other file."""
    if head.lstrip()[:1] in (b"{", b"["):
        return None
    header = head.split(b"\n", 1)[0].decode(errors="replace")
    for separator in SEPARATORS:
        if ID_COLUMNS & {name.strip(' "\r') for name in header.split(separator)}:
            return separator
    return None


def _looks_like_a_table(head: bytes) -> bool:
    """Return whether the first two lines are cut into the same number of fields, at least three, by a separator."""
    lines = head.split(b"\n")[:2]
    if head.lstrip()[:1] in (b"{", b"["):
        return False
    if re.search(rb"(^|[,\t;|\"])(parent_)?asin([,\t;|\"\r]|$)", lines[0].lower()):  # in capitals
        return True
    if len(lines) < 2 or b"{" in head or b"[" in head:
        return False
    return any(lines[0].count(separator) == lines[1].count(separator) > 1 for separator in map(str.encode, SEPARATORS))


def _cell_value(text: str) -> object:
    """Return the value of a table's cell: a list or mapping if it is written as one, None if it is empty."""
    if text[:1] in ("[", "{"):
        for parse in (json.loads, _parse_python):
            with contextlib.suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                return parse(text)
    return text or None


def _parse_python(text: str) -> object:
    """Return the value of a Python literal, also with NumPy's arrays in it, as pandas writes them."""
    return ast.literal_eval(
        NUMPY_TOKEN.sub(lambda match: (match["value"] or "") + ("," if match["blank"] else ""), text)
    )
