"""Read item metadata from tables (`preprocess.raw.table`), whose columns are found by their names."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from preprocess.raw.id_column import MISSING, missing_words
from preprocess.raw.item_files import IMAGE_SUFFIXES, encode_id
from preprocess.raw.item_metadata import Item, strip_html
from preprocess.raw.table import INTERACTIONS, ITEMS, Table
from utils.data.ids import canonical_form

DEFAULT_NAMES = {  # of the columns, case-insensitive, where no flag gives another
    "user": ("user_id", "userid", "user"),
    "item": ("item_id", "itemid", "item"),
    "time": ("time", "timestamp", "date"),
    "title": ("title", "item_title", "movie_title"),
    "picture": ("picture", "image"),
}
DEFAULT_ITEM_FILE_NAMES = ("id",)  # of the items' column in a table of items, besides those above
URL = re.compile(r"https?://\S+")
MAX_PICTURE_ID_BYTES = 255 - len(max(IMAGE_SUFFIXES, key=len) + ".tmp")  # of a file name


@dataclass(frozen=True)
class ColumnSettings:
    """Names of the columns in the header, and what their values mean."""

    # columns
    user: str = ""  # column of users; empty: user_id, userid or user
    item: str = ""  # column of items; empty, or absent from ITEM_FILE: item_id, itemid or item
    item_id_column: str = ""  # column of items in ITEM_FILE, where neither --item nor a name above is it; empty: id
    time: str = ""  # column of times; empty: time, timestamp or date
    title: str = ""  # column of items' titles, optional; empty: title, item_title or movie_title
    text: tuple[str, ...] = ()  # further columns of text about items, comma-separated
    picture: str = ""  # column of items' pictures, URLs or files beside FILE, optional; empty: picture or image

    # form of the tables
    columns: tuple[str, ...] = ()  # names of all columns of FILE in their order, if it has no header
    item_columns: tuple[str, ...] = ()  # names of all columns of ITEM_FILE in their order, if it has no header
    encoding: str = ""  # of both files, such as gb18030; empty: it is recognised

    # values
    missing: tuple[str, ...] = MISSING  # words in any case that, like an empty field, stand for no value
    time_format: str = ""  # number, excel, day_first, month_first, year_first or as %d%m%y; empty: recognised
    order_of_lines: bool = False  # there are no times: each user's lines are oldest first


class LocalPicture(NamedTuple):
    """A picture file that a table names."""

    file: Path
    origin: str  # path, line and value in the table, for error messages


@dataclass
class ItemTable:
    """What a table says about items."""

    path: Path
    is_separate: bool  # from the table of interactions
    kinds: list[str]  # title, text, picture: those that the table has a column for
    ids: set[str] = field(default_factory=set)  # encoded id of every item in it
    items: dict[str, Item] = field(default_factory=dict)  # of those with a title, text or picture
    pictures: dict[str, LocalPicture] = field(default_factory=dict)  # those that are files and not URLs
    n_without_item: int = 0  # lines
    n_repeated_headers: int = 0
    n_repeated: int = 0  # lines about an item of an earlier line


def open_table(path: Path, columns: ColumnSettings, is_separate: bool = False) -> Table:
    """Return a table whose shape has been recognised.

    Args:
        path: the table.
        columns: names of its columns.
        is_separate: it is not the table of interactions.

    Raises:
        FileNotFoundError, ValueError: it cannot be read; says what to do.
    """
    names = [*(name for kind in DEFAULT_NAMES.values() for name in kind), *columns.text]
    names += [columns.user, columns.item, columns.time, columns.title, columns.picture, columns.item_id_column]
    known = tuple(filter(None, names))
    if is_separate:
        return Table(path, ITEMS, columns.item_columns, columns.encoding, known + DEFAULT_ITEM_FILE_NAMES)
    return Table(path, INTERACTIONS, columns.columns, columns.encoding, known)


def read_csv_items(path: Path, columns: ColumnSettings, is_separate: bool, item_ids: list[str]) -> ItemTable:
    """Read the metadata of each item from the first line that has any.

    Args:
        path: the table.
        columns: names of its columns.
        is_separate: it is not the table of interactions.
        item_ids: encoded ids of the dataset's items, for the advice which column has them.

    Raises:
        FileNotFoundError, ValueError: naming file, line and value.
    """
    table = open_table(path, columns, is_separate)
    if is_separate:
        print(table.describe())
    selected = {
        "item": _find_item(table, columns, is_separate, item_ids),
        "title": _find_optional(table, "title", columns.title),
        "picture": _find_optional(table, "picture", columns.picture),
    }
    texts = [table.require("text", (name,)) for name in columns.text]
    kinds = [kind for kind in ("title", "picture") if selected[kind] is not None]
    read = ItemTable(path, is_separate, kinds + ["text"] * bool(texts))
    if is_separate and not read.kinds:
        listed = ", ".join(table.names)
        raise ValueError(f"{path}: no column title; --title, --text or --picture takes one of its columns ({listed})")
    missing = missing_words(columns.missing)
    if read.kinds:
        for where, item, title, picture, *values in table.rows([*selected.values(), *texts]):
            values = ["" if value.casefold() in missing else value for value in (title, picture, *values)]
            _add_line(read, where, "" if item.casefold() in missing else item, values)
    read.n_repeated_headers = table.n_repeated_headers
    return read


def _add_line(read: ItemTable, where: str, item: str, values: list[str]) -> None:
    """Add what a line says about an item: title, picture, further texts; the first that says anything counts."""
    if not item:
        read.n_without_item += 1
        return
    item_id = encode_id(item)
    read.n_repeated += item_id in read.ids
    read.ids.add(item_id)
    if item_id in read.items or not any(values):
        return
    title, picture, *texts = values
    if picture and len(item_id) > MAX_PICTURE_ID_BYTES:
        problem = (
            f"{item[:40]!r} has {len(item_id)} characters in percent-encoding, "
            f"{MAX_PICTURE_ID_BYTES} fit a picture's name"
        )
        raise ValueError(f"{where}: {problem}; shorten it, or remove the picture")
    is_url = URL.fullmatch(picture) is not None
    if picture and not is_url:
        read.pictures[item_id] = LocalPicture(read.path.parent / picture, f"{where}: {picture[:80]!r}")
    description = strip_html(" ".join(texts))
    image = picture if is_url else ""
    read.items[item_id] = Item(strip_html(title), brand="", categories="", description=description, image=image)


# ---------------------------------------------------------------- columns


def _find_item(table: Table, columns: ColumnSettings, is_separate: bool, item_ids: list[str]) -> int:
    """Return the column of items."""
    if is_separate and columns.item_id_column:
        return table.require("item_id_column", (columns.item_id_column,))
    names = ((columns.item,) if columns.item else ()) + DEFAULT_NAMES["item"]
    if not is_separate:
        return table.require("item", names)
    column = table.find((*names, *DEFAULT_ITEM_FILE_NAMES))
    if column is not None:
        return column
    try:
        return table.require("item_id_column", names)
    except ValueError as error:
        raise ValueError(f"{error}{suggest_id_column(table, item_ids)}") from None


def suggest_id_column(table: Table, item_ids: list[str], more_than: int = 0) -> str:
    """Return which column of a table has the most of some encoded ids, as the end of a message; empty if none has."""
    wanted = {canonical_form(item_id) for item_id in item_ids}
    found = [set() for _ in table.names]
    for _, *values in table.rows(list(range(len(table.names)))):
        for column, value in zip(found, values, strict=True):
            form = canonical_form(encode_id(value))
            if form in wanted:
                column.add(form)
    count, name = max(((len(column), name) for column, name in zip(found, table.names, strict=True)), default=(0, ""))
    return f"; its column {name} has {count:,} of the {len(item_ids):,} items: --item_id_column {name}" * (
        count > more_than
    )


def _find_optional(table: Table, kind: str, given: str) -> int | None:
    """Return a column of DEFAULT_NAMES that may be absent unless its flag gives a name."""
    if given:
        return table.require(kind, (given,))
    return table.find(DEFAULT_NAMES[kind])
