"""Describe an item by its metadata, free of HTML."""

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import zip_longest

NO_TEXT = {"nan", "NaN", "NAN", "none", "None", "NONE", "null", "NULL", "n/a", "N/A"}  # what programs write for nothing
# Scripts and styles of pages, which the release of 2018 has in place of some titles. In linear time for any text
CODE = re.compile(
    r"""
      \bgetTime\s?\(                                   # (new Date()).getTime()
    | \bfunction\s?\w{0,40}+\([^()]{0,200}+\)\s?\{     # function name(a, b) {
    | \bvar\s[\w$]{1,40}+\s?=[^=;][^;]{0,200}+;         # var name = value;
    | \{[^{}:;]*+:[^{}:;]*+;[^{}]*+\}                  # a { color: red; }
    """,
    re.VERBOSE,
)
WEB_ADDRESS = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
LARGE_SIZES = ("hi_res", "large")
SMALL_SIZE = "thumb"


@dataclass(frozen=True)
class Item:
    """Metadata of one item: plain text without tabs or line breaks; empty strings for what is unknown."""

    title: str
    brand: str
    categories: str
    description: str
    image: str  # URL of the item's picture

    def wealth(self) -> tuple[bool, int, int]:
        """Return how much is known, for comparison: first a title, then the number of fields, then their length."""
        fields = (self.title, self.brand, self.categories, self.description, self.image)
        return bool(self.title), sum(map(bool, fields)), sum(map(len, fields))


def describe(entry: dict, brand_field: str) -> Item:
    """Return what the metadata of any release says about its item.

    Args:
        entry: fields of one entry.
        brand_field: name of the field with the brand.
    """
    title = " ".join(plain_texts(entry.get("title")))
    brand = " ".join(plain_texts(entry.get(brand_field)))
    categories = plain_texts(entry.get("categories") or entry.get("category"))
    description = plain_texts(entry.get("description")) or plain_texts(entry.get("features") or entry.get("feature"))
    return Item(
        title="" if CODE.search(title) else title,
        brand="" if CODE.search(brand) else brand,
        categories=", ".join(dict.fromkeys(categories)),  # each once, in order
        description=" ".join(description),
        image=image_url(entry),
    )


def plain_texts(value: object) -> list[str]:
    """Return the strings of a field without HTML, those that say something."""
    texts = (strip_html(text) for text in flatten_strings(value))
    return [text for text in texts if text and text not in NO_TEXT]


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
    offers = (
        entry.get("imUrl"),  # 2014
        entry.get("imageURLHighRes"),  # 2018
        entry.get("imageURL"),
        _picture_urls(entry.get("images")),  # 2023
        entry.get("image"),  # small ones
    )
    for url in flatten_strings(offers):
        if WEB_ADDRESS.fullmatch(url):
            return _encodable(url.strip())
    return ""


def _picture_urls(images: object) -> list:
    """Return the URLs of the release of 2023: of every picture the largest one, then the small ones.

    Args:
        images: a mapping of sizes per picture or, as `datasets` writes it, a mapping of sizes to one URL per picture.
    """
    sizes = (*LARGE_SIZES, SMALL_SIZE)
    if isinstance(images, dict):
        columns = [value if isinstance(value, list) else [value] for value in map(images.get, sizes)]
        images = [dict(zip(sizes, urls, strict=True)) for urls in zip_longest(*columns)]
    if not isinstance(images, list):
        return []
    pictures = [image if isinstance(image, dict) else {"large": image} for image in images]
    large = [picture.get(size) for picture in pictures for size in LARGE_SIZES]
    return large + [picture.get(SMALL_SIZE) for picture in pictures]


class _HTMLStripper(HTMLParser):
    """Collect the text that a browser would show."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden_depth = 0  # open <script> and <style> elements

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.parts.append(" ")
        if tag in ("script", "style"):
            self.hidden_depth += 1

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(" ")
        if tag in ("script", "style"):
            self.hidden_depth = max(self.hidden_depth - 1, 0)

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """Skip `<![…>` of any kind, as browsers do; the base class raises on kinds that it does not know."""
        return self.parse_bogus_comment(i)

    def handle_data(self, data: str) -> None:
        if not self.hidden_depth:
            self.parts.append(data)


def strip_html(text: str) -> str:
    """Return a text without HTML, on one line, with single spaces."""
    if "<" in text or "&" in text:
        parser = _HTMLStripper()
        parser.feed(text)
        parser.close()
        text = "".join(parser.parts)
    return " ".join(_encodable(text).split())


def _encodable(text: str) -> str:
    """Return a text whose pairs of surrogates are characters, and single ones, which no file can contain, replaced."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
