"""What users and items are called in the raw files, by our numbers."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral  # Python's and NumPy's integers
from pathlib import Path
from urllib.parse import unquote

from preprocess.modalities.images import find_images, open_image
from preprocess.modalities.shards import UnusableInputError
from preprocess.raw.item_files import (
    IMAGE_URL_FILE,
    ITEM_ID_FILE,
    ITEM_TEXT_FILE,
    USER_ID_FILE,
    USER_ID_HEADER,
    read_item_ids,
    read_item_rows,
)
from utils.data.interactions import Interactions

THUMBNAIL_SIDE = 120  # pixels of a picture's longer side, at most
MAX_PIXELS = 50_000_000  # larger pictures are not opened
NUMBER = re.compile("#([0-9]{1,9})")  # one of our numbers where an id is expected


class Ids:
    """The raw ids of all users, or of all items, in order of our numbers.

    Where no file has ids, they are the numbers. One that the files leave out is called "#" and its number.

    Args:
        kind: "user" or "item".
        encoded: the ids as files contain them, percent-encoded; "" where unknown.
        source: the file that lists them, for errors.

    Raises:
        ValueError: two have the same id; names the file.
    """

    def __init__(self, kind: str, encoded: list[str], source: Path) -> None:
        self.kind = kind
        self.encoded = encoded
        self.source = source
        self.are_numbers = not any(encoded)
        self.names = [unquote(text) or f"#{number}" for number, text in enumerate(encoded)]
        if self.are_numbers:
            self.names = [str(number) for number in range(len(encoded))]
        self._numbers = {}
        for number, name in enumerate(self.names):
            first = self._numbers.setdefault(name, number)
            if first != number:
                raise ValueError(f"{source}: {kind}s {first} and {number} have the same id {name!r}; correct one")

    def describe(self, number: int) -> str:
        """Return the id with our number behind it, such as "Jane Doe (#42)"."""
        name = self.names[number]
        return name if self.are_numbers or name == f"#{number}" else f"{name} (#{number})"

    def numbers(self, given: Sequence[str | int], flag: str) -> list[int]:
        """Return the numbers of what a flag or a call gives: raw ids, or our numbers, as integers or as "#42".

        Args:
            given: ids and numbers.
            flag: what gives them, for errors.

        Raises:
            ValueError: some are unknown; names all of them.
        """
        found = [self._number(f"#{one}" if isinstance(one, Integral) else one) for one in given]
        unknown = [str(one) for one, number in zip(given, found, strict=True) if number is None]
        if unknown:
            last = len(self.names) - 1
            expected = f"the numbers are 0 to {last}" if self.are_numbers else f"give an id of it, or '#0' to '#{last}'"
            raise ValueError(f"{flag} {', '.join(unknown)}: not in {self.source}; {expected}")
        return found

    def _number(self, text: str) -> int | None:
        if text in self._numbers:
            return self._numbers[text]
        match = NUMBER.fullmatch(text)
        return int(match[1]) if match and int(match[1]) < len(self.names) else None


@dataclass(frozen=True)
class Catalogue:
    """Names of users and items, and pictures of items, by our numbers."""

    users: Ids
    items: Ids
    titles: list[str]  # of items; "" where unknown
    pictures: dict[str, Path]  # by item id as files contain it

    def label(self, item: int) -> str:
        """Return the title of an item; without one its id, without either its number."""
        return self.titles[item] or (f"item {item}" if self.items.are_numbers else self.items.names[item])

    def thumbnail(self, item: int) -> str:
        """Return an item's picture as a small JPEG in base64; "" without a usable one."""
        path = self.pictures.get(self.items.encoded[item])
        if path is None:
            return ""
        try:
            picture = open_image(path, MAX_PIXELS)
        except UnusableInputError:
            return ""
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        content = io.BytesIO()
        picture.save(content, format="JPEG", quality=80)
        return base64.b64encode(content.getvalue()).decode()


def read_catalogue(data: Interactions) -> Catalogue:
    """Read the names and pictures of users and items that are in the dataset's folder.

    Raises:
        ValueError: a file breaks its format; names path and line.
    """
    folder = data.path.parent
    titles = [""] * data.n_items
    item_ids = [""] * data.n_items
    user_ids = [""] * data.n_users
    item_source = user_source = data.path
    if (folder / ITEM_TEXT_FILE).is_file():
        item_source = folder / ITEM_TEXT_FILE
        for _, item, rest in read_item_rows(item_source, data.n_items, "\t"):
            item_ids[item], _, text = rest.partition("\t")
            titles[item] = text.partition("\t")[0]
    if (folder / ITEM_ID_FILE).is_file() or (folder / IMAGE_URL_FILE).is_file():
        item_ids = read_item_ids(folder, data.n_items)
        item_source = next(folder / name for name in (ITEM_ID_FILE, IMAGE_URL_FILE) if (folder / name).is_file())
    if (folder / USER_ID_FILE).is_file():
        user_source = folder / USER_ID_FILE
        for _, user, name in read_item_rows(user_source, data.n_users, ",", USER_ID_HEADER):
            user_ids[user] = name
    pictures = folder / "pictures"
    return Catalogue(
        users=Ids("user", user_ids, user_source),
        items=Ids("item", item_ids, item_source),
        titles=titles,
        pictures=find_images(pictures) if pictures.is_dir() else {},
    )
