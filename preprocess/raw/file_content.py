"""Recognise what a file contains, by its first bytes and not by its name: compression, binary formats, encodings."""

import bz2
import codecs
import gzip
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

ARCHIVE = "an archive; unpack it and give the path of the table in it"
CONVERT = "write it as CSV, for example with pandas (to_csv), and give that file"
SQL = "not a table, but statements in SQL; run them in a database, export the table as CSV, and give that file"
HTML = (b"<!doctype html", b"<html", b"<table", b"<head", b"<meta", b"<style", b"<!--")
# Beginnings of files that are named and not read, and what they are
NAMED = (
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"Rar!", ARCHIVE),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; decompress it (zstd -d) and give the path of the result"),
    (b"SQLite format 3", "an SQLite database; write its table as CSV (sqlite3 -header -csv) and give that file"),
    (b"\x89HDF", f"an HDF5 file; {CONVERT}"),
    (b"MATLAB 5.0", f"a MATLAB file; {CONVERT}"),
    (b"\x93NUMPY", f"a NumPy array; {CONVERT}"),
    (b"%PDF", "not a table, but a PDF document; give the path of the table"),
    *((b"\x80" + bytes([protocol]), f"a Python pickle; {CONVERT}") for protocol in (2, 3, 4, 5)),
    (b"version https://git-lfs", "not a table, but Git LFS's pointer to it; fetch the file (git lfs pull)"),
    *((mark, f"not a table, but a web page in HTML; download the file itself, or {CONVERT}") for mark in HTML),
    *((mark, SQL) for mark in (b"-- ", b"--\n", b"--\r\n", b"/*!", b"create table", b"insert into")),
    (b"%%matrixmarket", f"a matrix in the format Matrix Market; {CONVERT}"),
    (b"@relation", f"a file in the format ARFF; {CONVERT}"),
    (b"<?xml", f"not a table, but XML; {CONVERT}"),
)
BINARY = f"not a table of text, nor of a format that is read (CSV, JSON lines, Excel, Parquet); {CONVERT}"
# The line under the header, or around all, of a table that is drawn for a terminal or in Markdown
DRAWN_LINE = re.compile(rb"(?:[^\n]*\n){0,2}[ |+]*:?-{2,}:?[+|][-+|: ]*\r?(\n|$)")
DRAWN = "a table drawn in a box; export it as CSV (psql --csv, mysql --batch) and give that file"
NULS = r"NUL bytes, as a crash leaves them; remove them (tr -d '\000' < FILE > NEW) or give an undamaged copy"
MAX_NULS = 0.1  # of a damaged text's bytes, apart from runs of them
TEXT = re.compile(rb"[\t\r\n -~\x80-\xff]*")
TAR_MAGIC = (257, b"ustar")
HEAD_BYTES = 2**16
CHUNK_BYTES = 2**20
# Of zipfile: what is encrypted, compressed in a rare way, or contradicts itself
UNREADABLE_ZIP = (RuntimeError, NotImplementedError, ValueError, LookupError, OverflowError, struct.error)
MAX_LAYERS = 3  # of compression, one in another
BYTE_ORDER_MARKS = (  # the longer ones first
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NOT_TABLES = re.compile(  # files that accompany a table in an archive
    r"__MACOSX/.*|(.*/)?(\.[^/]*|readme[^/]*|licen[cs]e[^/]*|[^/]*\.(md|pdf|html?))", re.IGNORECASE
)
UNDEFINED_IN_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
WIDE = ("utf-16", "utf-32", "utf16", "utf32", "utf_16", "utf_32")
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
MAX_CONTROLS = 0.001  # of a text's bytes
MIN_IN_SHORT_RUNS = 0.8  # of the bytes beyond ASCII of a text of Western Europe
MAX_LISTED = 6  # names in an error message


@dataclass
class Content:
    """What a file contains, below all compression."""

    path: Path
    kind: str = "text"  # or: Excel, Parquet, Arrow
    layers: list[Callable[[BinaryIO], BinaryIO]] = field(default_factory=list)  # that decompress, the outer first
    notes: list[str] = field(default_factory=list)  # what was recognised
    head: bytes = b""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the content below all compression.

        Raises:
            ValueError: the compressed file is damaged, or encrypted.
        """
        with explain_damage(self.path), ExitStack() as stack:
            file = stack.enter_context(self.path.open("rb"))
            for open_layer in self.layers:
                file = stack.enter_context(open_layer(file))
            yield file


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Raise what decompression raises on damaged files as a ValueError that names the file."""
    try:
        yield
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.filename:  # not of decompression
            raise
        raise ValueError(f"{path}: cut short or damaged ({error}); download it again") from error


def _open_gzip(file: BinaryIO) -> BinaryIO:
    return gzip.GzipFile(fileobj=file, mode="rb")


def _open_member(member: str, path: Path, file: BinaryIO) -> BinaryIO:
    """Open a file in a zip archive.

    Raises:
        ValueError: it is encrypted, or compressed in a way that the standard library does not know.
    """
    try:
        return zipfile.ZipFile(file).open(member)
    except UNREADABLE_ZIP as error:
        raise ValueError(f"{path}: {error}; unpack it and give the path of the table in it") from error


def _zip_names(path: Path, file: BinaryIO) -> list[str]:
    """Return the names of the files in a zip archive.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return [entry.filename for entry in zipfile.ZipFile(file).infolist() if not entry.is_dir()]
    except UNREADABLE_ZIP as error:
        raise ValueError(f"{path}: a damaged archive ({error}); download it again") from error


def recognise_content(path: Path) -> Content:
    """Return what a file contains.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no table, several of them, or a format that is not read; says what to do.
    """
    if path.is_dir():
        raise ValueError(
            f"{path}: a folder; give the path of a table in it, joined to one file if it has several parts"
        )
    content = Content(path)
    for _ in range(MAX_LAYERS + 1):
        with content.open() as file:
            content.head = file.read(HEAD_BYTES)
            head = content.head
            if head.startswith(b"PK\x03\x04"):
                names = _zip_names(path, file)
                if any(name.startswith("xl/") or name == "content.xml" for name in names):
                    content.kind = "Excel"
                    return content
                member = _only_table(path, names)
                content.layers.append(partial(_open_member, member, path))
                content.notes.append(f"{member} in a zip archive")
                continue
        if head.startswith(b"\x1f\x8b"):
            content.layers.append(_open_gzip)
            content.notes.append("gzipped")
        elif re.match(rb"BZh[1-9]1AY&SY", head):
            content.layers.append(bz2.BZ2File)
            content.notes.append("compressed by bzip2")
        elif head.startswith(b"\xfd7zXZ\x00"):
            content.layers.append(lzma.LZMAFile)
            content.notes.append("compressed by xz")
        else:
            content.kind = _kind_of(path, head)
            return content
    raise ValueError(f"{path}: compressed more than {MAX_LAYERS} times; decompress it and give the path of the table")


def _only_table(path: Path, names: list[str]) -> str:
    """Return the only name of an archive that may be a table's.

    Raises:
        ValueError: there is none, or there are several.
    """
    tables = [name for name in names if not NOT_TABLES.fullmatch(name)]
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise ValueError(f"{path}: not a table, but an archive without one; give the path of a table")
    listed = ", ".join(PurePosixPath(name).name for name in tables[:MAX_LISTED])
    if len(tables) > MAX_LISTED:
        listed += ", …"
    raise ValueError(f"{path}: an archive of {len(tables)} files ({listed}); unpack it and give the path of one")


def _kind_of(path: Path, head: bytes) -> str:
    """Return the kind of content that is not compressed.

    Raises:
        ValueError: it is of a format that is not read.
    """
    if head.startswith(b"PAR1"):
        return "Parquet"
    if head.startswith(b"ARROW1"):
        return "Arrow"
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):  # workbooks until Excel 2003
        return "Excel"
    beginning = head.removeprefix(codecs.BOM_UTF8).lstrip()
    for magic, what in NAMED:
        if beginning[: len(magic)].lower() == magic.lower():
            raise ValueError(f"{path}: {what}")
    if DRAWN_LINE.match(beginning):
        raise ValueError(f"{path}: {DRAWN}")
    offset, magic = TAR_MAGIC
    if head[offset:].startswith(magic):
        raise ValueError(f"{path}: {ARCHIVE}")
    return "text"


# ---------------------------------------------------------------- text


@dataclass
class Text:
    """What one pass over all of a text tells."""

    encoding: str
    note: str = ""  # about the encoding, where it is another than UTF-8
    n_lines: int = 0
    has_quotes: bool = False
    has_backslashes: bool = False


def recognise_text(content: Content, encoding: str) -> Text:
    """Return a text's encoding and number of lines.

    Args:
        content: of kind text.
        encoding: name of the encoding; empty: it is recognised.

    Raises:
        ValueError: it is no text, or one whose encoding has to be named.
    """
    if encoding:
        text = Text(encoding, f"encoding {encoding}")
    else:
        marks = [name for mark, name in BYTE_ORDER_MARKS if content.head.startswith(mark)]
        text = Text(marks[0] if marks else _wide_encoding(content) or "utf-8")
        if text.encoding.startswith(WIDE):
            text.note = f"encoding {text.encoding.upper()}"
    scan = _scan_wide if text.encoding.lower().startswith(WIDE) else _scan
    with content.open() as file:
        scan(file, text, content.path, is_given=bool(encoding))
    return text


def _scan_wide(file: BinaryIO, text: Text, path: Path, is_given: bool) -> None:
    """Count the lines of a text with several bytes per character."""
    decoder = codecs.getincrementaldecoder(text.encoding)(errors="replace")
    end = "\n"
    while chunk := file.read(CHUNK_BYTES):
        characters = decoder.decode(chunk)
        text.n_lines += characters.count("\n")
        text.has_quotes = text.has_quotes or '"' in characters
        text.has_backslashes = text.has_backslashes or "\\" in characters
        end = characters[-1:] or end
    text.n_lines += end != "\n"


def _scan(file: BinaryIO, text: Text, path: Path, is_given: bool) -> None:
    """Count the lines of a text and, unless its encoding is given, see whether it is UTF-8.

    Raises:
        ValueError: it is not, and has to be named.
    """
    decoder = None if is_given else codecs.getincrementaldecoder("utf-8")()
    end = b"\n"
    n_returns = 0
    has_utf8 = False  # characters beyond ASCII until now
    while chunk := file.read(CHUNK_BYTES):
        n_before = text.n_lines
        text.n_lines += chunk.count(b"\n")
        n_returns += chunk.count(b"\r")
        text.has_quotes = text.has_quotes or b'"' in chunk
        text.has_backslashes = text.has_backslashes or b"\\" in chunk
        end = chunk[-1:]
        if decoder and not (chunk.isascii() and decoder.getstate()[0] == b""):
            try:
                decoder.decode(chunk)
                has_utf8 = True
            except UnicodeDecodeError as error:
                line = n_before + error.object[: error.start].count(b"\n") + 1
                text.encoding = _western_encoding(f"{path}: line {line}", chunk, has_utf8)
                decoder = None
        if text.encoding == "cp1252" and not is_given and UNDEFINED_IN_CP1252.search(chunk):
            text.encoding = "latin-1"
    if not text.n_lines and n_returns:  # in which lines of old Macs end
        text.n_lines = n_returns - (end == b"\r")
    text.n_lines += end != b"\n"
    if decoder and (rest := decoder.getstate()[0]):
        text.encoding = _western_encoding(f"{path}: line {text.n_lines}", rest, has_utf8)
        decoder = None
    if decoder is None and not is_given:
        text.note = f"encoding {text.encoding}, as it is not UTF-8 (--encoding names another)"


def _wide_encoding(content: Content) -> str:
    """Return the encoding of a text of two bytes per character without a mark, empty for one without NUL.

    Raises:
        ValueError: bytes that no text has.
    """
    head = content.head
    if b"\0" not in head:
        return ""
    for encoding, high_bytes in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if high_bytes.count(0) > 0.9 * len(high_bytes) and head.count(0) < 0.6 * len(head):
            return encoding
    rest = re.sub(rb"\0{4,}", b"", head)
    is_text = rest.count(0) < MAX_NULS * len(rest) and TEXT.fullmatch(rest.replace(b"\0", b""))
    raise ValueError(f"{content.path}: {NULS if is_text else BINARY}")


def _western_encoding(where: str, chunk: bytes, has_utf8: bool) -> str:
    """Return cp1252 if a text that is not UTF-8 looks like one of Western Europe.

    There, letters with marks stand between others; bytes beyond ASCII that come in long runs are another alphabet's.

    Args:
        where: path and line, for the error message.
        chunk: bytes among which some are not UTF-8.
        has_utf8: whether characters beyond ASCII came before.

    Raises:
        ValueError: it does not.
    """
    if len(CONTROLS.findall(chunk)) > MAX_CONTROLS * len(chunk):
        raise ValueError(f"{where}: {BINARY}")
    runs = re.findall(rb"[\x80-\xff]+", chunk)
    if has_utf8 or sum(map(_is_utf8, runs)) > len(runs) / 2:
        raise ValueError(f"{where}: not UTF-8, as other lines are; correct it, or give the --encoding of the file")
    n_in_short_runs = sum(len(run) for run in runs if len(run) < 3)
    if n_in_short_runs < MIN_IN_SHORT_RUNS * sum(map(len, runs)):
        problem = "not UTF-8, and not of Western Europe"
        raise ValueError(f"{where}: {problem}; give its encoding, for example --encoding gb18030, shift_jis or cp1251")
    return "cp1252"


def _is_utf8(run: bytes) -> bool:
    try:
        run.decode()
    except UnicodeDecodeError:
        return False
    return True
