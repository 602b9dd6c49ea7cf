"""Convert raw Amazon reviews and metadata to a dataset: interaction file, id maps, item texts and splits.

    python -m preprocess.amazon --dataset Beauty

Reads `DATA_DIR/raw/reviews_{dataset}_5.json.gz` and `meta_{dataset}.json.gz` (releases of 2014 and 2018, or the
`.jsonl.gz` files of 2023; compressed or not), also as a JSON array or as CSV with a header. Lines that cannot be used
are passed over, up to --max_skipped. Writes to `DATA_DIR/sequential/{dataset}/`: `{dataset}.txt`,
`{dataset}_days.txt`, `u_id_mapping.csv`, `i_id_mapping.csv`, `item_text.tsv`, `item_image.tsv` (URLs of pictures),
`5-core/train.json`, `val.json` and `test.json`, `statistics.json` and `skipped.tsv`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.raw.amazon_releases import META_FILES, REVIEW_FILES, find_release_file, load_items, load_reviews
from preprocess.raw.dataset_writer import (
    DatasetSettings,
    refuse_overwrite,
    render_dataset_files,
    replace_dataset,
    validate_settings,
)
from preprocess.raw.interactions import deduplicate_and_k_core
from preprocess.raw.item_metadata import Item
from preprocess.raw.skipped_lines import SkippedLines
from preprocess.raw.summary import Summary, add_interactions, next_command
from utils.cli.errors import run_program
from utils.cli.flags import parse_settings
from utils.cli.validation import check_numbers

MILLISECONDS_PER_DAY = 86_400_000  # days begin at midnight UTC


@dataclass(frozen=True)
class RawSettings(DatasetSettings):
    """Settings of the conversion."""

    reviews: str = ""  # review file; empty: DATA_DIR/raw/reviews_DATASET_5.json.gz or the name of another release
    meta: str = ""  # metadata file; empty: DATA_DIR/raw/meta_DATASET.json.gz or the name of another release
    max_skipped: float = 0.01  # largest share of a file's lines to pass over, or 3 lines; 0: the first ends the run


def preprocess(settings: RawSettings) -> None:
    """Read reviews and metadata, and write the dataset.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """
    interaction_file = refuse_overwrite(settings)
    folder = Path(settings.data_dir) / "raw"
    review_file = find_release_file(settings.reviews, folder, REVIEW_FILES, settings.dataset)
    meta_file = find_release_file(settings.meta, folder, META_FILES, settings.dataset)

    odd_reviews = SkippedLines(review_file, "review", settings.max_skipped)
    odd_metadata = SkippedLines(meta_file, "metadata", settings.max_skipped)
    reviews = load_reviews(review_file, odd_reviews)
    interactions, counts = deduplicate_and_k_core(reviews, settings.k_core, review_file)
    items, not_used = load_items(meta_file, interactions.item_ids, odd_metadata)

    day = interactions.time // MILLISECONDS_PER_DAY
    summary = Summary(str(interaction_file))
    summary.add("reviews read", len(reviews))
    _add_skipped(summary, odd_reviews)
    add_interactions(summary, interactions, counts, settings.k_core, "that of the item ids")
    summary.add("days", " to ".join(np.array([day.min(), day.max()], "datetime64[D]").astype(str)))
    _add_skipped(summary, odd_metadata)
    _add_metadata(summary, items, not_used)

    if odd_reviews:
        counts["skipped_review_lines"] = len(odd_reviews)
    skipped = [*odd_reviews.rows(), *odd_metadata.rows(), *not_used]
    replace_dataset(settings, render_dataset_files(settings, interactions, items, skipped, counts, day))
    print(summary.render(next_command("preprocess.features text", settings)))


def _add_skipped(summary: Summary, skipped: SkippedLines) -> None:
    """Add the lines of a file that could not be used, by reason."""
    for reason, count in skipped.counts().items():
        summary.add_passed_over(reason, count, "listed in skipped.tsv")


def _add_metadata(summary: Summary, items: list[Item | None], not_used: list[tuple]) -> None:
    """Add for how many items the metadata has something, and the entries that are not used."""
    known = [item for item in items if item is not None]
    summary.add_passed_over("further metadata lines", len(not_used) - (len(items) - len(known)))
    summary.add_matched("items with metadata", len(known), len(items))
    summary.add_matched("with a title", sum(bool(item.title) for item in known), len(items))
    summary.add_matched("with a description", sum(bool(item.description) for item in known), len(items))
    summary.add_matched("with a picture", sum(bool(item.image) for item in known), len(items))


def _validate(settings: RawSettings) -> list[str]:
    return validate_settings(settings) + check_numbers(settings, fraction=("max_skipped",))


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    description = "Convert raw Amazon files to a dataset."
    settings = parse_settings(RawSettings, argv, "python -m preprocess.amazon", description, _validate)
    return run_program(preprocess, settings)


if __name__ == "__main__":
    sys.exit(main())
