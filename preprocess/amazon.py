"""Convert raw Amazon reviews and metadata to a dataset: interaction file, id maps, item texts and splits.

    python -m preprocess.amazon --dataset Beauty

Reads `DATA_DIR/raw/reviews_{dataset}_5.json.gz` and `meta_{dataset}.json.gz` (releases of 2014 and 2018, or the
`.jsonl.gz` files of 2023; gzipped or not). Writes to `DATA_DIR/sequential/{dataset}/`: `{dataset}.txt`,
`{dataset}_days.txt`, `u_id_mapping.csv`, `i_id_mapping.csv`, `item_text.tsv`, `item_image.tsv` (URLs of pictures),
`5-core/train.json`, `val.json` and `test.json`, `statistics.json` and `skipped.tsv`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from preprocess.raw.amazon_releases import META_FILES, REVIEW_FILES, find_release_file, load_items, load_reviews
from preprocess.raw.dataset_writer import (
    DatasetSettings,
    refuse_overwrite,
    render_dataset_files,
    replace_dataset,
    validate_settings,
)
from preprocess.raw.interactions import deduplicate_and_k_core
from preprocess.raw.summary import Summary, add_interactions, next_command
from utils.cli.errors import run_program
from utils.cli.flags import parse_settings

MILLISECONDS_PER_DAY = 86_400_000  # days begin at midnight UTC


@dataclass(frozen=True)
class RawSettings(DatasetSettings):
    """Settings of the conversion."""

    reviews: str = ""  # review file; empty: DATA_DIR/raw/reviews_DATASET_5.json.gz or the name of another release
    meta: str = ""  # metadata file; empty: DATA_DIR/raw/meta_DATASET.json.gz or the name of another release


def preprocess(settings: RawSettings) -> None:
    """Read reviews and metadata, and write the dataset.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """
    interaction_file = refuse_overwrite(settings)
    folder = Path(settings.data_dir) / "raw"
    review_file = find_release_file(settings.reviews, folder, REVIEW_FILES, settings.dataset)
    meta_file = find_release_file(settings.meta, folder, META_FILES, settings.dataset)

    reviews = load_reviews(review_file)
    interactions, counts = deduplicate_and_k_core(reviews, settings.k_core, review_file)
    items, skipped = load_items(meta_file, interactions.item_ids)

    day = interactions.time // MILLISECONDS_PER_DAY
    replace_dataset(settings, render_dataset_files(settings, interactions, items, skipped, counts, day))
    summary = Summary(str(interaction_file))
    summary.add("reviews read", len(reviews))
    add_interactions(summary, interactions, counts, settings.k_core, "that of the item ids")
    summary.add("entries in skipped.tsv", len(skipped))
    print(summary.render(next_command("preprocess.features text", settings)))


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    description = "Convert raw Amazon files to a dataset."
    settings = parse_settings(RawSettings, argv, "python -m preprocess.amazon", description, validate_settings)
    return run_program(preprocess, settings)


if __name__ == "__main__":
    sys.exit(main())
