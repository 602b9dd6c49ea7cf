"""Describe an item by its metadata, free of HTML."""

from dataclasses import dataclass
from html.parser import HTMLParser


@dataclass(frozen=True)
class Item:
    """Metadata of one item: plain text without tabs or line breaks; empty strings for what is unknown."""

    title: str
    brand: str
    categories: str
    description: str
    image: str  # URL of the item's picture


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
    return " ".join(text.split())
