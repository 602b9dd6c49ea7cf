"""Lines of the Amazon releases of 2014, 2018 and 2023: reviews and item descriptions, recognised by their content."""

import ast
import gzip
import json
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

LONGEST_LINE = 2**24  # bytes
LAST_TIME = 2**43  # milliseconds, in the year 2248

# Review fields by release: user, item, time, and how many milliseconds the time's unit has.
FIELDS_2014_2018 = ("reviewerID", "asin", "unixReviewTime", 1000)  # 2014 and 2018
FIELDS_2023 = ("user_id", "parent_asin", "timestamp", 1)  # 2023


@dataclass(frozen=True)
class Item:
    """What a metadata line says of an item, HTML removed; empty where it says nothing."""

    title: str
    brand: str
    categories: str
    description: str
    image: str  # address of its picture


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of every line that is not blank, gzipped or not."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    number = 0
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise ValueError(f"{path}: line {number}: longer than {LONGEST_LINE:,} bytes; take a release file")
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged after line {number} ({error}); fetch it again") from error


def _from_json(line: bytes) -> object:
    return json.loads(line)


def _from_literal(line: bytes) -> object:
    return ast.literal_eval(line.decode("utf-8-sig").strip())


def read_objects(path: Path) -> Iterator[tuple[int, dict]]:
    """Line number and object of every line of a release file: JSON, or Python literals, which are never evaluated.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of what is neither, or is cut short.
    """
    parse = None
    for number, line in _lines(path):
        try:
            parse = parse or _parser_of(line)
            entry = parse(line)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            kind = "JSON" if parse is _from_json else "a Python literal" if parse else "JSON or a Python literal"
            shown = line[:60].decode(errors="replace").strip()
            raise ValueError(
                f"{path}: line {number}: not {kind}: {shown!r}; remove the line or fetch it again"
            ) from error
        if not isinstance(entry, dict):
            raise ValueError(
                f"{path}: line {number}: a mapping of field names is expected, not {type(entry).__name__}; remove it"
            )
        yield number, entry


def _parser_of(line: bytes):
    try:
        _from_json(line)
    except ValueError:
        _from_literal(line)
        return _from_literal
    return _from_json


def _shown(value: object) -> str:
    """The beginning of a value."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python does not write out numbers of thousands of digits
        return "of thousands of digits"


def _field(entry: dict, name: str, kind: type, where: str):
    """A field that must be there, of the kind it must have."""
    value = entry.get(name)
    if value is None:
        raise ValueError(f"{where}: no {name}; remove the line or complete it")
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(
            f"{where}: {name} {_shown(value)} is not of type {kind.__name__}; remove the line or correct it"
        )
    return value


def read_reviews(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Line number, user, item and time in milliseconds of every review."""
    fields = None
    for number, entry in read_objects(path):
        fields = fields or (FIELDS_2023 if "parent_asin" in entry else FIELDS_2014_2018)
        user, item, time, unit = fields
        where = f"{path}: line {number}"
        when = unit * _field(entry, time, int, where)
        if not 0 <= when < LAST_TIME:
            raise ValueError(
                f"{where}: {time} {_shown(entry[time])} is no time since 1970; remove the line or correct it"
            )
        yield number, _field(entry, user, str, where), _field(entry, item, str, where), when


def read_items(path: Path, wanted: Container[str]) -> Iterator[tuple[int, str, Item]]:
    """Line number, ASIN and description of every metadata line whose item is wanted."""
    name = None
    for number, entry in read_objects(path):
        name = name or ("parent_asin" if "parent_asin" in entry else "asin")
        asin = _field(entry, name, str, f"{path}: line {number}")
        if asin in wanted:
            brand = entry.get("store") if name == "parent_asin" else entry.get("brand")
            title, brand, description = (
                " ".join(map(strip_html, flatten_strings(value)))
                for value in (entry.get("title"), brand, entry.get("description"))
            )
            levels = map(strip_html, flatten_strings(entry.get("categories") or entry.get("category")))
            yield number, asin, Item(title, brand, ", ".join(dict.fromkeys(levels)), description, image_url(entry))


def flatten_strings(value: object) -> list[str]:
    """Every text in a field: one, a list of them, or lists of lists however deep, in order."""
    found, rest = [], [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, list | tuple):
            rest += reversed(part)
    return found


def image_url(entry: dict) -> str:
    """Address of the item's first picture, the largest that is offered; empty without one."""
    images = entry.get("images")
    if isinstance(images, list):
        images = [image for image in images if isinstance(image, dict)]
        images = [image.get("hi_res") or image.get("large") or "" for image in images]
    for offer in (entry.get("imUrl"), entry.get("imageURLHighRes"), entry.get("imageURL"), images):
        for address in flatten_strings(offer):
            if address.strip() and not any(c.isspace() for c in address.strip()):
                return address.strip()
    return ""


class _HTMLStripper(HTMLParser):
    """Collects what a browser would show."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.hidden = [], 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.parts.append(" ")
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(" ")
        self.hidden = max(self.hidden - (tag in ("script", "style")), 0)

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """Skip `<![…>`, of whatever kind, as browsers do; the library refuses kinds that it does not know."""
        return self.parse_bogus_comment(i)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def strip_html(text: str) -> str:
    """Text without HTML, on one line, single spaces."""
    if "<" in text or "&" in text:
        parser = _HTMLStripper()
        parser.feed(text)
        parser.close()
        text = "".join(parser.parts)
    return " ".join(text.split())
