"""Read the Amazon releases of 2014, 2018 and 2023, which are recognised by their content."""

import gzip
import zlib
from array import array
from collections.abc import Container, Iterator
from pathlib import Path

from preprocess.raw.interactions import RawInteractions, collect_interactions
from preprocess.raw.item_metadata import Item, strip_html
from preprocess.raw.line_parser import LineParser
from utils.cli.progress import track

REVIEW_FILES = ("reviews_{}_5.json", "reviews_{}.json", "{}_5.json", "{}.json", "{}.jsonl")
META_FILES = ("meta_{}.json", "meta_{}.jsonl")
MAX_LINE_BYTES = 2**24
MAX_TIME = 2**43  # milliseconds since 1970, in the year 2248

# Fields of a review: user, item, time, and the milliseconds per unit of the time
FIELDS_2014_2018 = ("reviewerID", "asin", "unixReviewTime", 1000)
FIELDS_2023 = ("user_id", "parent_asin", "timestamp", 1)


def find_release_file(given: str, folder: Path, patterns: tuple[str, ...], category: str) -> Path:
    """Return the path that is given, or else the first of a release's files in the folder, gzipped or not.

    Raises:
        FileNotFoundError: there is none.
    """
    names = [pattern.format(category) for pattern in patterns]
    candidates = [folder / (name + ending) for name in names for ending in (".gz", "")]
    if given:
        candidates = [Path(given)]
    for path in candidates:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"{candidates[0]} missing; datasets/README.md lists the files that are read and where to get them"
    )


def load_reviews(path: Path) -> RawInteractions:
    """Read all reviews of a file in their order, times in milliseconds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path, line and value.
    """
    reviews = track(read_reviews(path), path.name, "reviews")
    interactions = collect_interactions(reviews, array("q"))
    if not len(interactions):
        raise ValueError(f"{path}: no review in it; download it again")
    return interactions


def load_items(path: Path, item_ids: list[str]) -> tuple[list[Item | None], list[tuple]]:
    """Read the metadata of the given items.

    Returns:
        Per item its metadata, or None, and the entries of `skipped.tsv`: (reason, line, ASIN).

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path, line and value.
    """
    index_of = {asin: index for index, asin in enumerate(item_ids)}
    items: list[Item | None] = [None] * len(item_ids)
    skipped = []
    entries = track(read_items(path, index_of), path.name, "items")
    for line, asin, item in entries:
        if items[index_of[asin]] is None:
            items[index_of[asin]] = item
        else:
            skipped.append(("a further line for the same item", line, asin))
    if not any(items):
        raise ValueError(f"{path}: none of the {len(items)} items is in it; take the metadata of the same category")
    skipped += [("no metadata", "", asin) for asin, item in zip(item_ids, items, strict=True) if item is None]
    return items, skipped


def read_reviews(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield position (path and line), user, item and time in milliseconds of each review."""
    parser = LineParser(path)
    name = str(path)
    fields = None
    for number, line in _read_lines(path):
        entry = parser.parse_quickly(number, line)
        if fields is None:
            fields = FIELDS_2023 if "parent_asin" in entry else FIELDS_2014_2018
            user_field, item_field, time_field, unit = fields
        where = f"{name}: line {number}"
        user = entry.get(user_field)
        item = entry.get(item_field)
        time = entry.get(time_field)
        if not (type(user) is type(item) is str and type(time) is int and 0 <= unit * time < MAX_TIME):
            user, item, time = _check_review(parser.parse(number, line), fields, where)
        yield where, user, item, unit * time


def _check_review(entry: dict, fields: tuple[str, str, str, int], where: str) -> tuple[str, str, int]:
    """Return user, item and time of a review in which something is unusual, or raise ValueError."""
    user_field, item_field, time_field, unit = fields
    time = _required_field(entry, time_field, int, where)
    if not 0 <= unit * time < MAX_TIME:
        value = _excerpt(entry[time_field])
        raise ValueError(f"{where}: {time_field} {value} is no time since 1970; remove the line or correct it")
    return _required_field(entry, user_field, str, where), _required_field(entry, item_field, str, where), time


def read_items(path: Path, wanted: Container[str]) -> Iterator[tuple[int, str, Item]]:
    """Yield line number, ASIN and metadata of each line whose item is wanted."""
    parser = LineParser(path)
    id_field = None
    for number, line in _read_lines(path):
        entry = parser.parse_quickly(number, line)
        if id_field is None:
            id_field = "parent_asin" if "parent_asin" in entry else "asin"
        asin = entry.get(id_field)
        if not isinstance(asin, str):
            asin = _required_field(parser.parse(number, line), id_field, str, f"{path}: line {number}")
        if asin in wanted:
            brand_field = "store" if id_field == "parent_asin" else "brand"
            categories = _plain_texts(entry.get("categories") or entry.get("category"))
            item = Item(
                title=" ".join(_plain_texts(entry.get("title"))),
                brand=" ".join(_plain_texts(entry.get(brand_field))),
                categories=", ".join(dict.fromkeys(categories)),  # each once, in order
                description=" ".join(_plain_texts(entry.get("description"))),
                image=image_url(entry),
            )
            yield number, asin, item


def read_objects(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield line number and object of each line of a release file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of what cannot be parsed, or is cut short.
    """
    parser = LineParser(path)
    for number, line in _read_lines(path):
        yield number, parser.parse(number, line)


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each line that is not blank, gzipped or not."""
    with path.open("rb") as raw:
        is_gzipped = raw.read(2) == b"\x1f\x8b"
    number = 0
    try:
        with gzip.open(path, "rb") if is_gzipped else path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES:
                    raise ValueError(
                        f"{path}: line {number}: longer than {MAX_LINE_BYTES:,} bytes; take a release file"
                    )
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged after line {number} ({error}); download it again") from error


def _required_field(entry: dict, name: str, kind: type, where: str):
    """Return the value of a field, which must be there and of the given type."""
    value = entry.get(name)
    if value is None:
        raise ValueError(f"{where}: no {name}; remove the line or complete it")
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        problem = f"{name} {_excerpt(value)} is not of type {kind.__name__}"
        raise ValueError(f"{where}: {problem}; remove the line or correct it")
    return value


def _excerpt(value: object) -> str:
    """Return the beginning of a value's representation."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "of thousands of digits"


def _plain_texts(value: object) -> list[str]:
    return [strip_html(text) for text in flatten_strings(value)]


def flatten_strings(value: object) -> list[str]:
    """Return all strings of a field in order: of one string, a list of them, or lists nested to any depth."""
    found = []
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, list | tuple):
            pending += reversed(part)
    return found


def image_url(entry: dict) -> str:
    """Return the URL of the item's first picture in the largest size offered; empty without one."""
    images = entry.get("images")
    if isinstance(images, list):  # 2023: one mapping of sizes per picture
        images = [image.get("hi_res") or image.get("large") or "" for image in images if isinstance(image, dict)]
    for offer in (entry.get("imUrl"), entry.get("imageURLHighRes"), entry.get("imageURL"), images):
        for url in flatten_strings(offer):
            if len(url.split()) == 1:  # neither empty nor with spaces inside
                return url.strip()
    return ""
