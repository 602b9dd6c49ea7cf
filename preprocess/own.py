"""Convert a table of users, items and times to a dataset.

    python -m preprocess.own purchases.csv --dataset Mine

Reads columns separated by commas, semicolons, tabs, `::`, `|` or spaces, JSON, Excel workbooks, Parquet and Arrow,
compressed or not, in any encoding; the first line printed says what was recognised. Names of columns are in a header,
with or without RecBole's types (`user_id:token`), or given by --columns; of ratings without a header (MovieLens,
Amazon) they are assumed. Ids are any strings; files contain characters other than letters, digits and . : _ - in
percent-encoding. Times are numbers of any unit, or dates in any usual form; equal times keep the order of lines. Lines
without user, item or time are passed over. Each line counts as one interaction, unless user, item and time repeat an
earlier line. Writes what `preprocess.amazon` writes, and copies picture files to `pictures/`, from which `--overwrite`
also removes earlier pictures of the items.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.raw.csv_table import ColumnSettings, LocalPicture, read_csv_items
from preprocess.raw.dataset_writer import (
    DatasetSettings,
    refuse_overwrite,
    render_dataset_files,
    replace_dataset,
    validate_settings,
)
from preprocess.raw.interactions import deduplicate_and_k_core, utc_days
from preprocess.raw.item_files import IMAGE_SUFFIXES, IMAGE_URL_FILE, ITEM_TEXT_FILE
from preprocess.raw.item_join import join_items
from preprocess.raw.summary import Summary, add_interactions, next_command
from preprocess.raw.table_interactions import read_csv_interactions
from preprocess.raw.time_forms import FORMATS
from utils.cli.errors import run_program
from utils.cli.flags import SettingsParser
from utils.cli.progress import announce
from utils.data.layout import days_file

MAX_LISTED = 5  # missing pictures that an error message names


@dataclass(frozen=True)
class OwnSettings(ColumnSettings, DatasetSettings):
    """Settings of the conversion."""

    dataset: str = "Mine"
    item_file: str = ""  # second table with columns of items, titles, texts and pictures; empty: FILE has them


def validate_own_settings(settings: OwnSettings) -> list[str]:
    """Return one message per invalid setting."""
    problems = validate_settings(settings)
    if settings.item_id_column and not settings.item_file:
        problems.append("--item_id_column: needs --item_file; --item names the column of FILE")
    if settings.item_columns and not settings.item_file:
        problems.append("--item_columns: needs --item_file; --columns names the columns of FILE")
    try:
        "".encode(settings.encoding or "utf-8")
    except LookupError:
        problems.append(f"--encoding {settings.encoding}: a name that Python knows is expected, such as gb18030")
    if settings.time_format and settings.time_format not in FORMATS and "%" not in settings.time_format:
        problems.append(f"--time_format: {settings.time_format!r} is none of {', '.join(FORMATS)}, nor as %d.%m.%Y")
    if settings.time_format and settings.order_of_lines:
        problems.append("--time_format: says nothing with --order_of_lines, which reads no times")
    return problems


def check_pictures(pictures: dict[str, LocalPicture]) -> dict[str, Path]:
    """Return the picture files.

    Raises:
        ValueError: some are missing or have another suffix; names the first few.
    """
    bad = [
        picture.origin
        for picture in pictures.values()
        if not picture.file.is_file() or picture.file.suffix.lower() not in IMAGE_SUFFIXES
    ]
    if bad:
        listed = ", ".join(bad[:MAX_LISTED])
        if len(bad) > MAX_LISTED:
            listed += f" and {len(bad) - MAX_LISTED} more"
        verb = "is" if len(bad) == 1 else "are"
        problem = f"{verb} neither an address nor a file ({', '.join(IMAGE_SUFFIXES)})"
        raise ValueError(f"{listed} {problem}; correct it, or put the file there")
    return {item_id: picture.file for item_id, picture in pictures.items()}


def find_old_pictures(folder: Path, item_ids: Iterable[str], kept: set[Path]) -> list[Path]:
    """Return earlier pictures of these items, under any suffix because a reader may prefer another, but those kept."""
    if not folder.is_dir():
        return []
    ids = set(item_ids)
    return [
        path
        for path in folder.iterdir()
        if path.stem in ids and path.suffix.lower() in IMAGE_SUFFIXES and path.resolve() not in kept
    ]


def preprocess(path: Path, settings: OwnSettings) -> None:
    """Read the tables and write the dataset.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """
    interaction_file = refuse_overwrite(settings)
    folder = interaction_file.parent
    summary = Summary(str(interaction_file))
    with announce(f"reading {path}"):
        read = read_csv_interactions(path, settings, summary)
    interactions, counts = deduplicate_and_k_core(read, settings.k_core, path, by_number=True)
    add_interactions(summary, interactions, counts, settings.k_core)
    counts |= {"passed_over": summary.passed_over} if summary.passed_over else {}
    day = utc_days(interactions)
    # Ranks in place of times keep the order of lines where times are equal
    interactions.time[np.argsort(interactions.time, kind="stable")] = np.arange(len(interactions))
    item_file = Path(settings.item_file or path)
    table = read_csv_items(item_file, settings, bool(settings.item_file), interactions.item_ids)
    items, local_pictures = join_items(table, interactions.item_ids, settings, summary)
    without = [item_id for item_id, item in zip(interactions.item_ids, items, strict=True) if item is None]
    skipped = [("no line about it", "", item_id) for item_id in without]
    contents = render_dataset_files(settings, interactions, items, skipped, counts, day)

    # Files without any content are not written, and those of an earlier dataset are removed
    obsolete = [folder / days_file(settings.dataset)] if day is None else []
    known_items = [item for item in items if item is not None]
    has_content = {
        ITEM_TEXT_FILE: any(item.title or item.description for item in known_items),
        IMAGE_URL_FILE: any(item.image for item in known_items),
    }
    for name, filled in has_content.items():
        if not filled:
            del contents[name]
            obsolete.append(folder / name)

    pictures = check_pictures(local_pictures)
    replaced_ids = interactions.item_ids if settings.overwrite else pictures
    sources = {file.resolve() for file in pictures.values()}
    obsolete += find_old_pictures(folder / "pictures", replaced_ids, sources)
    copies = {f"pictures/{item_id}{file.suffix.lower()}": file for item_id, file in pictures.items()}
    replace_dataset(settings, copies | contents, obsolete)
    if day is None:
        summary.add("file of days", "none", "because the times are none of the years 1980 to 2099")
    print(summary.render(next_command("preprocess.tables", settings)))


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    description = "Convert a table of users, items and times to a dataset."
    parser = SettingsParser(OwnSettings, "python -m preprocess.own FILE", description, validate_own_settings)
    parser.add_argument("file", type=Path, metavar="FILE", help="the table of interactions")
    settings, options = parser.parse(argv)
    return run_program(preprocess, options.file, settings)


if __name__ == "__main__":
    sys.exit(main())
