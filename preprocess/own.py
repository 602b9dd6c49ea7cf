"""Anybody's table of who took what and when to what the pipeline reads.

    python -m preprocess.own purchases.csv --dataset Mine

Reads a file of columns separated by commas, semicolons or tabs (in the last, quotation marks mean nothing), below a
header that names them, with or without RecBole's types (`user_id:token`). Ids are any strings; files hold what is not
a letter, digit or one of . : _ - in percent-encoding. Times are numbers of any unit, or dates as 2024-01-31 or
2024-01-31 10:00:00; equal ones stay in the order of lines. Every line counts, whatever else it holds, but for those
that repeat user, item and time of one before. Writes what `preprocess.amazon` writes, and copies pictures that are
files into `pictures/`.
"""

import csv
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from preprocess.amazon import Reviews, deduplicate_and_k_core, refuse_overwrite, render_dataset_files, replace_dataset
from preprocess.modalities.images import SUFFIXES
from preprocess.raw.amazon_releases import Item, strip_html
from preprocess.raw.item_files import IMAGE_URL_FILE, ITEM_TEXT_FILE, encode_id
from utils.cli.errors import report_user_error, run_program
from utils.cli.flags import parse_settings
from utils.cli.validation import check_choices_and_names, check_numbers

SEPARATORS = ",\t;"
NAMES = {  # of a column where no flag names it, in any case of letters
    "user": ("user", "user_id", "userid"),
    "item": ("item", "item_id", "itemid"),
    "time": ("time", "timestamp", "date"),
    "title": ("title", "item_title", "movie_title"),
    "picture": ("picture", "image"),
}
ADDRESS = re.compile(r"https?://\S+")
LONGEST = 255 - len(max(SUFFIXES, key=len) + ".tmp")  # bytes of an id that names a picture
TOLD = 5  # pictures that are missing, the others counted


@dataclass(frozen=True)
class OwnSettings:
    """Which columns are read, by their names in the header; where a flag is empty, by the usual names."""

    dataset: str = "Mine"  # name of the folder that is written, under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/
    user: str = ""  # column of users: user, user_id or userid when empty
    item: str = ""  # column of items: item, item_id or itemid when empty, and where ITEM_FILE has none of this name
    time: str = ""  # column of times: time, timestamp or date when empty
    title: str = ""  # column of items' titles, may be absent: title, item_title or movie_title when empty
    text: tuple[str, ...] = ()  # further columns of text about items, comma-separated
    picture: str = ""  # column of items' pictures, addresses or files beside FILE, may be absent: picture or image
    item_file: str = ""  # another such file, with columns of items, titles, texts and pictures; FILE itself when empty
    k_core: int = 5  # users and items keep at least so many interactions
    overwrite: bool = False  # replace files that are there already; the items' pictures of before are removed


def validate_settings(settings: OwnSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    return check_numbers(settings, at_least_1=("k_core",)) + check_choices_and_names(settings, {}, ("dataset",))


def read_fields(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where it stands (path and line), and the fields, of every line that is not blank, the header first.

    Raises:
        FileNotFoundError: no such file; ValueError: naming the line that can't be read.
    """
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            separator = max(SEPARATORS, key=lambda s: len(next(csv.reader([header], delimiter=s), [])))
            quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, quoting=quoting, strict=True)
            for fields in reader:
                number = reader.line_num
                if fields:
                    yield f"{path}: line {number}", fields
    except csv.Error as error:
        raise ValueError(f"{path}: after line {number}: {error}; correct the quotation marks or the line") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: after line {number}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def column_name(text: str) -> str:
    """A column's name as it is compared: without RecBole's type, in small letters."""
    return text.partition(":")[0].strip().lower()


def read_columns(path: Path, settings: OwnSettings, needed: tuple[str, ...], also: tuple[str, ...]) -> Iterator[tuple]:
    """Where it stands, and a value for each of the `needed` and `also` columns and each column of `settings.text`.

    Columns that are absent, as those of `also` may be, and texts in a file that has none of them, are empty.

    Raises:
        FileNotFoundError, ValueError: naming file, line and column.
    """
    lines = read_fields(path)
    where, header = next(lines, (str(path), []))
    names, places = [column_name(name) for name in header], []
    for kind in (*needed, *also):
        given = getattr(settings, kind)
        looked = (given,) * bool(given)
        if not given or (kind in needed and also):  # of items: FILE has the column under this name, this file may not
            looked += NAMES[kind]
        found = [names.index(name) for name in map(column_name, looked) if name in names]
        if not found and (given or kind in needed):
            raise ValueError(f"{where}: no column {' or '.join(looked)}; --{kind} takes one of the header")
        places.append(found[0] if found else None)
    for name in settings.text if also else ():
        if column_name(name) not in names:
            raise ValueError(f"{where}: no column {name}; --text takes some of the header")
        places.append(names.index(column_name(name)))
    for where, fields in lines:
        if len(fields) != len(header):
            raise ValueError(f"{where}: {len(fields)} fields, but {len(header)} in the header; correct or remove it")
        yield where, *("" if place is None else fields[place].strip() for place in places)


def parse_time(word: str) -> tuple[bool, float]:
    """Whether it is a date, and what sorts by time: a number as it stands, a date in seconds.

    Raises:
        ValueError: neither.
    """
    for kind in (int, float):
        try:
            value = kind(word)
        except ValueError:
            continue
        if math.isfinite(value) and abs(value) < 2**63:
            return False, value
    moment = datetime.fromisoformat(word)
    return True, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_csv_interactions(path: Path, settings: OwnSettings) -> Reviews:
    """Every line as an interaction, times as they stand.

    Raises:
        FileNotFoundError, ValueError: naming file, line and value.
    """
    users, items, columns, dated = {}, {}, ([], [], []), None
    for where, user, item, time in read_columns(path, settings, ("user", "item", "time"), ()):
        if not user or not item:
            raise ValueError(f"{where}: no {'item' if user else 'user'}; complete or remove the line")
        try:
            date, value = parse_time(time)
        except ValueError:
            what = f"{time[:40]!r} is neither a number nor a date"
            raise ValueError(f"{where}: {what}; write one as 2024-01-31 10:00:00") from None
        if dated not in (None, date):
            raise ValueError(f"{where}: {time!r} among {'dates' if dated else 'numbers'}; write all times in one way")
        dated = date
        columns[0].append(users.setdefault(encode_id(user), len(users)))
        columns[1].append(items.setdefault(encode_id(item), len(items)))
        columns[2].append(value)
    if not users:
        raise ValueError(f"{path}: no line below a header; give a file with some")
    return Reviews(*map(np.array, columns), list(users), list(items))


def read_items(path: Path, settings: OwnSettings) -> tuple[dict[str, Item], dict[str, tuple[Path, str]]]:
    """What the first line that says anything of an item says of it; pictures that are files, and where they stand.

    Raises:
        FileNotFoundError, ValueError: naming file, line and value.
    """
    known, files = {}, {}
    for where, item, title, picture, *texts in read_columns(path, settings, ("item",), ("title", "picture")):
        asin = encode_id(item)
        if asin in known or not any((title, picture, *texts)):
            continue
        if picture and len(asin) > LONGEST:
            what = f"{item[:40]!r} has {len(asin)} characters in percent-encoding, {LONGEST} fit a picture's name"
            raise ValueError(f"{where}: {what}; shorten it, or remove the picture")
        address = ADDRESS.fullmatch(picture)
        known[asin] = Item(strip_html(title), "", "", strip_html(" ".join(texts)), picture if address else "")
        if picture and not address:
            files[asin] = path.parent / picture, f"{where}: {picture[:80]!r}"
    return known, files


def usable(files: dict[str, tuple[Path, str]], asins: list[str]) -> dict[str, Path]:
    """The pictures of these items among those of `read_items`.

    Raises:
        ValueError: some are no such files; names the first.
    """
    found = [(asin, *files[asin]) for asin in asins if asin in files]
    bad = [told for _, file, told in found if not file.is_file() or file.suffix.lower() not in SUFFIXES]
    if bad:
        told = ", ".join(bad[:TOLD]) + f" and {len(bad) - TOLD} more" * (len(bad) > TOLD)
        what = f"{'are' if bad[1:] else 'is'} neither an address nor a file ({', '.join(SUFFIXES)})"
        raise ValueError(f"{told} {what}; correct it, or put the file there")
    return {asin: file for asin, file, _ in found}


def old_pictures(folder: Path, ids: set[str], kept: set[Path]) -> list[Path]:
    """Pictures of these items under any suffix, since another one would be taken first; but those `kept`."""
    there = folder.iterdir() if folder.is_dir() else ()
    return [p for p in there if p.stem in ids and p.suffix.lower() in SUFFIXES and p.resolve() not in kept]


def preprocess(path: Path, settings: OwnSettings) -> Path:
    """Read everything, write everything; returns the dataset's folder.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """
    done = refuse_overwrite(settings.data_dir, settings.dataset, settings.overwrite)
    everything = read_csv_interactions(path, settings)
    known, files = read_items(Path(settings.item_file or path), settings)
    reviews, counts = deduplicate_and_k_core(everything, settings.k_core, path)
    reviews.time[np.argsort(reviews.time, kind="stable")] = np.arange(len(reviews))  # no ties left
    items = [known.get(asin) for asin in reviews.item_ids]
    absent = [("no line about it", "", asin) for asin, item in zip(reviews.item_ids, items, strict=True) if not item]
    contents, pictures = render_dataset_files(settings, reviews, items, absent, counts), usable(files, reviews.item_ids)
    renewed = set(reviews.item_ids) if settings.overwrite else set(pictures)
    old = old_pictures(done.with_name("pictures"), renewed, {file.resolve() for file in pictures.values()})
    has_text = any(item and item.title + item.description for item in items)
    for name, there in ((ITEM_TEXT_FILE, has_text), (IMAGE_URL_FILE, any(item and item.image for item in items))):
        if not there:
            del contents[name]
            old.append(done.with_name(name))
    files = {f"pictures/{asin}{file.suffix.lower()}": file for asin, file in pictures.items()}
    replace_dataset(settings, files | contents, old)
    print(
        f"{done}: {len(reviews.user_ids):,} users, {len(reviews.item_ids):,} items, {len(reviews):,} interactions of "
        f"{len(everything):,} lines"
    )
    return done.parent


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    argv, program = list(sys.argv[1:] if argv is None else argv), "python -m preprocess.own FILE"
    valued = {f"--{name}" for name, value in vars(OwnSettings()).items() if not isinstance(value, bool)}
    words = zip(["", *argv], argv, strict=False)  # each behind the one before it
    places = [n for n, (before, word) in enumerate(words) if not word.startswith("-") and before not in valued]
    file = argv.pop(places[0]) if places else None
    settings = parse_settings(OwnSettings, argv, program, "Your own interactions.", validate_settings)
    if file is None:
        return report_user_error(f"which file: {program} [flags]")
    return run_program(preprocess, Path(file), settings)


if __name__ == "__main__":
    sys.exit(main())
