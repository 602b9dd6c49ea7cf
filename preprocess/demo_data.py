"""Make the demo: a small synthetic category in the raw 2014 format.

Items belong to tastes, which show in their titles and pictures; users have two tastes, and follow habits of which item
comes after which.
"""

import gzip
from pathlib import Path

import numpy as np

from config_HeLLM import Settings
from preprocess import amazon
from preprocess.tables import Pipeline, TableSettings, make_tables
from utils.data.layout import dataset_folder
from utils.io.atomic import atomic_write
from utils.runtime.processes import run_on_main_process

DATASET = "Demo"
N_USERS = 1000
N_ITEMS = 400
N_TASTES = 20
P_HABIT = 0.5  # probability that the next item is the usual successor of the last one
P_TASTE = 0.35  # that it belongs to one of the user's tastes; otherwise popular items are more probable
FIRST_DAY = 1_300_000_000  # seconds since 1970
DAY = 86_400  # seconds
SIDE = 32  # pixels
WORD_BEGINNINGS = ["blue", "soft", "warm", "mini", "dark", "gold", "silk", "lime", "rose", "pure", "wild", "calm"]
WORD_ENDS = ["cream", "brush", "lamp", "stone", "paper", "glass", "cloth", "spoon", "fence", "light", "wheel", "shell"]
WORDS_PER_TASTE = 6
GRAPH_FLAGS = "--lr 3e-3 --batch_size 256 --embed_dim 32 --num_epochs 40"
SEQUENCE_FLAGS = "--lr 3e-3 --batch_size 32 --width 32 --hidden 32 --dropout 0.2 --num_epochs 20 --tokens_per_batch 0"


# ---------------------------------------------------------------- the synthetic category


def taste_of_items(seed: int = 0) -> np.ndarray:
    """Return the taste that each item belongs to: int64 (N_ITEMS,)."""
    return np.random.default_rng([seed, 1]).permutation(N_ITEMS) % N_TASTES


def make_sequences(seed: int = 0) -> list[np.ndarray]:
    """Return the purchases of each user, oldest first, each item once: int64 (5 to 45,)."""
    rng = np.random.default_rng(seed)
    taste_of = taste_of_items(seed)
    items_of_taste = [np.flatnonzero(taste_of == taste) for taste in range(N_TASTES)]
    successor = np.empty(N_ITEMS, np.int64)
    for items in items_of_taste:
        successor[items] = np.roll(items, 1)
    popularity = 1 / np.arange(1, N_ITEMS + 1) ** 0.6
    popularity = rng.permutation(popularity / popularity.sum())
    sequences = []
    for _ in range(N_USERS):
        tastes = rng.choice(N_TASTES, 2, replace=False)
        length = 5 + min(rng.geometric(0.2), 40)
        items = [int(rng.choice(N_ITEMS, p=popularity))]
        while len(items) < length:
            u = rng.random()
            if u < P_HABIT:
                item = successor[items[-1]]
            elif u < P_HABIT + P_TASTE:
                item = rng.choice(items_of_taste[rng.choice(tastes)])
            else:
                item = rng.choice(N_ITEMS, p=popularity)
            if item not in items:
                items.append(int(item))
            elif u < P_HABIT:  # the usual successor is bought already: take any other item
                items.append(next(i for i in rng.permutation(N_ITEMS) if i not in items))
        sequences.append(np.array(items))
    return sequences


def make_texts(seed: int = 0) -> list[str]:
    """Return the title of each item: three of its taste's six words and two of all words."""
    rng = np.random.default_rng([seed, 2])
    words = np.array([beginning + end for beginning in WORD_BEGINNINGS for end in WORD_ENDS])
    words_of_taste = rng.permutation(words)[: WORDS_PER_TASTE * N_TASTES].reshape(N_TASTES, WORDS_PER_TASTE)
    titles = []
    for taste in taste_of_items(seed):
        of_taste = rng.permutation(words_of_taste[taste])[:3]
        titles.append(" ".join([*of_taste, *rng.choice(words, 2)]))
    return titles


def make_pictures(seed: int = 0) -> np.ndarray:
    """Return a picture per item, stripes in its taste's two colours: uint8 (N_ITEMS, SIDE, SIDE, 3)."""
    rng = np.random.default_rng([seed, 3])
    colours = rng.integers(0, 256, (N_TASTES, 2, 3))
    row, column = np.mgrid[:SIDE, :SIDE]
    pictures = []
    for taste in taste_of_items(seed):
        angle = rng.uniform(0, np.pi)
        period = rng.uniform(6, 16)
        is_stripe = np.sin((row * np.cos(angle) + column * np.sin(angle)) * 2 * np.pi / period) > 0
        item_noise = rng.normal(0, 12, 3)
        pixel_noise = rng.normal(0, 6, (SIDE, SIDE, 3))
        picture = colours[taste][is_stripe.astype(int)] + item_noise + pixel_noise
        pictures.append(picture.clip(0, 255).astype(np.uint8))
    return np.stack(pictures)


# ---------------------------------------------------------------- its raw files


def asin_of(item: int) -> str:
    """Return the ASIN of an item."""
    return f"DEMO{item:06}"


def make_reviews(seed: int = 0) -> list[dict]:
    """Return each purchase as a review, sorted by item and user as in the release."""
    rng = np.random.default_rng([seed, 4])
    reviews = []
    for user, items in enumerate(make_sequences(seed)):
        days = rng.integers(0, 1000) + np.cumsum(rng.integers(1, 30, len(items)))
        for item, day in zip(items.tolist(), days.tolist(), strict=True):
            review = {
                "reviewerID": f"USER{user:06}",
                "asin": asin_of(item),
                "overall": 5.0,
                "reviewText": "It's what it says.",
                "unixReviewTime": FIRST_DAY + DAY * day,
            }
            reviews.append(review)
    return sorted(reviews, key=lambda review: (review["asin"], review["reviewerID"]))


def make_metadata(seed: int = 0) -> list[dict]:
    """Return the metadata of each item."""
    return [
        {
            "asin": asin_of(item),
            "title": title,
            "categories": [["Demo"]],
            "imUrl": f"https://pictures.invalid/{asin_of(item)}.jpg",
        }
        for item, title in enumerate(make_texts(seed))
    ]


def write_literals(path: Path, entries: list[dict]) -> None:
    """Write entries as Python literals, one per line, gzipped."""
    content = "".join(repr(entry) + "\n" for entry in entries).encode()
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0))


def make_raw(data_dir: str | Path, seed: int = 0) -> None:
    """Write the raw files that are absent: reviews, metadata, and a JPEG picture per item."""
    from PIL import Image  # slow to import

    raw = Path(data_dir) / "raw"
    pictures = dataset_folder(data_dir, DATASET) / "pictures"
    raw.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    for item, pixels in enumerate(make_pictures(seed)):
        path = pictures / f"{asin_of(item)}.jpg"
        if not path.exists():
            with atomic_write(path) as temporary:
                Image.fromarray(pixels).save(temporary, format="JPEG", quality=90)
    makers = {f"meta_{DATASET}.json.gz": make_metadata, f"reviews_{DATASET}_5.json.gz": make_reviews}
    for name, make_entries in makers.items():
        if not (raw / name).exists():
            write_literals(raw / name, make_entries(seed))


# ---------------------------------------------------------------- everything that fine-tuning reads


def ensure_demo(data_dir: str, output_dir: str, logging_dir: str) -> None:
    """Make the demo's absent files: raw files, dataset, features and embedding tables.

    Existing files are kept, so that an interrupted demo is resumed. `LOGGING_DIR/Demo/stages_log.txt` lists each stage
    with its files and, if it is tested, its test metrics.
    """
    make_raw(data_dir)
    pipeline = Pipeline(dataset_folder(data_dir, DATASET), Path(logging_dir) / DATASET)
    with pipeline.lock():
        pipeline.run([f"{DATASET}.txt"], amazon, ["--dataset", DATASET, "--data_dir", str(data_dir)])
    settings = TableSettings(
        DATASET, str(data_dir), sentences=False, output_dir=str(output_dir), logging_dir=str(logging_dir)
    )
    make_tables(settings, GRAPH_FLAGS, SEQUENCE_FLAGS)


def ensure_demo_data(settings: Settings) -> None:
    """Make the demo's absent files, on rank 0 only; do nothing for any other dataset."""
    if settings.dataset == DATASET:
        run_on_main_process(ensure_demo, settings.data_dir, settings.output_dir, settings.logging_dir)
