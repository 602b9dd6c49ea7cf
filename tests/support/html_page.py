"""An HTML page as a browser would read it."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img"}  # elements without an end tag


class Page(HTMLParser):
    """Parse a page, check its elements, and collect what tests look at.

    Attributes:
        open_elements: Elements whose end tag has not come yet.
        fetched: Addresses of everything that a browser would load.
        texts: (element, text) in order.
        titles: `title` attributes.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open_elements, self.fetched, self.texts, self.titles = [], [], [], []
        assert "url(" not in html
        assert "@import" not in html
        self.feed(html)
        self.close()
        assert self.open_elements == []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href")]
        self.titles += [value for name, value in attrs if name == "title"]
        assert tag != "script"
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open_elements.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open_elements.pop() == tag

    def handle_data(self, data):
        if self.open_elements:
            self.texts.append((self.open_elements[-1], data))
