"""A small synthetic category in the raw 2014 format: tastes, words and looks for them, habits of what follows what."""

import gzip
from pathlib import Path

import numpy as np

from config_HeLLM import Settings
from preprocess import amazon
from preprocess.tables import Pipeline, TableSettings, make_tables
from utils.data.layout import dataset_folder
from utils.io.atomic import atomic_write
from utils.runtime.distributed import run_on_main_process

DATASET = "Demo"
N_USERS, N_ITEMS, N_TASTES = 1000, 400, 20
P_HABIT, P_TASTE = 0.5, 0.35  # next by habit; else by taste; else by popularity
FIRST_DAY, DAY = 1_300_000_000, 86_400  # seconds
SIDE = 32  # pixels
WORD_BEGINNINGS = ["blue", "soft", "warm", "mini", "dark", "gold", "silk", "lime", "rose", "pure", "wild", "calm"]
WORD_ENDS = ["cream", "brush", "lamp", "stone", "paper", "glass", "cloth", "spoon", "fence", "light", "wheel", "shell"]
GRAPH_FLAGS = "--lr 3e-3 --batch_size 256 --embed_dim 32 --num_epochs 40"
SEQUENCE_FLAGS = "--lr 3e-3 --batch_size 32 --width 32 --hidden 32 --dropout 0.2 --num_epochs 20"


def make_pictures(seed: int = 0) -> np.ndarray:
    """A picture of every item: its taste's two colours in a pattern of its own, uint8 (N_ITEMS, SIDE, SIDE, 3)."""
    rng = np.random.default_rng([seed, 3])
    colours = rng.integers(0, 256, (N_TASTES, 2, 3))
    row, column = np.mgrid[:SIDE, :SIDE]
    pictures = []
    for taste in taste_of_items(seed):
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 16)
        stripe = np.sin((row * np.cos(angle) + column * np.sin(angle)) * 2 * np.pi / period) > 0
        picture = colours[taste][stripe.astype(int)] + rng.normal(0, 12, 3) + rng.normal(0, 6, (SIDE, SIDE, 3))
        pictures.append(picture.clip(0, 255).astype(np.uint8))
    return np.stack(pictures)


def asin_of(item: int) -> str:
    return f"DEMO{item:06}"


def reviews(seed: int = 0) -> list[dict]:
    """Every purchase as a review: a user's in rising time, all by item and user, as the release has them."""
    rng, found = np.random.default_rng([seed, 4]), []
    for user, items in enumerate(make_sequences(seed)):
        days = rng.integers(0, 1000) + np.cumsum(rng.integers(1, 30, len(items)))
        for item, day in zip(items.tolist(), days.tolist(), strict=True):
            found.append(
                {
                    "reviewerID": f"USER{user:06}",
                    "asin": asin_of(item),
                    "overall": 5.0,
                    "reviewText": "It's what it says.",
                    "unixReviewTime": FIRST_DAY + DAY * day,
                }
            )
    return sorted(found, key=lambda r: (r["asin"], r["reviewerID"]))


def metadata(seed: int = 0) -> list[dict]:
    """A description of every item."""
    return [
        {
            "asin": asin_of(item),
            "title": title,
            "categories": [["Demo"]],
            "imUrl": f"https://pictures.invalid/{asin_of(item)}.jpg",
        }
        for item, title in enumerate(make_texts(seed))
    ]


def taste_of_items(seed: int = 0) -> np.ndarray:
    """The taste that every item belongs to: int64 (N_ITEMS,)."""
    return np.random.default_rng([seed, 1]).permutation(N_ITEMS) % N_TASTES


def make_sequences(seed: int = 0) -> list[np.ndarray]:
    """Purchases of every user, oldest first, each item once.

    Items belong to tastes and have a usual successor each; a user has two tastes.
    """
    rng = np.random.default_rng(seed)
    taste_of = taste_of_items(seed)
    members = [np.flatnonzero(taste_of == taste) for taste in range(N_TASTES)]
    successor = np.empty(N_ITEMS, np.int64)
    for items in members:
        successor[items] = np.roll(items, 1)
    popularity = 1 / np.arange(1, N_ITEMS + 1) ** 0.6
    popularity = rng.permutation(popularity / popularity.sum())
    sequences = []
    for _ in range(N_USERS):
        tastes, length = rng.choice(N_TASTES, 2, replace=False), 5 + min(rng.geometric(0.2), 40)
        items = [int(rng.choice(N_ITEMS, p=popularity))]
        while len(items) < length:
            draw = rng.random()
            if draw < P_HABIT:
                item = successor[items[-1]]
            elif draw < P_HABIT + P_TASTE:
                item = rng.choice(members[rng.choice(tastes)])
            else:
                item = rng.choice(N_ITEMS, p=popularity)
            if item not in items:
                items.append(int(item))
            elif draw < P_HABIT:  # the habit is served already
                items.append(next(i for i in rng.permutation(N_ITEMS) if i not in items))
        sequences.append(np.array(items))
    return sequences


def make_texts(seed: int = 0) -> list[str]:
    """A title of every item: three of its taste's six words, two of anybody's."""
    rng = np.random.default_rng([seed, 2])
    words = np.array([a + b for a in WORD_BEGINNINGS for b in WORD_ENDS])
    own = rng.permutation(words)[: 6 * N_TASTES].reshape(N_TASTES, 6)
    draw = (np.concatenate([rng.permutation(own[taste])[:3], rng.choice(words, 2)]) for taste in taste_of_items(seed))
    return [" ".join(title) for title in draw]


def write_lines(path: Path, entries: list[dict]) -> None:
    """Python literals, one a line, gzipped."""
    content = "".join(repr(entry) + "\n" for entry in entries).encode()
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0))


def make_raw(data_dir: str | Path, seed: int = 0) -> None:
    """Write the raw files where they are absent: reviews, metadata, and a JPEG picture of every item."""
    from PIL import Image  # slow to import, comes with matplotlib

    raw, pictures = Path(data_dir) / "raw", dataset_folder(data_dir, DATASET) / "pictures"
    raw.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    for item, pixels in enumerate(make_pictures(seed)):
        path = pictures / f"{asin_of(item)}.jpg"
        if not path.exists():
            with atomic_write(path) as temporary:
                Image.fromarray(pixels).save(temporary, format="JPEG", quality=90)
    for name, entries in ((f"meta_{DATASET}.json.gz", metadata), (f"reviews_{DATASET}_5.json.gz", reviews)):
        if not (raw / name).exists():
            write_lines(raw / name, entries(seed))


def ensure_demo(data_dir: str, output_dir: str, logging_dir: str) -> None:
    """Make the demo category's files where they are absent: raw files, and all that the programs make of them.

    What is there is left alone, so that an interrupted demo goes on where it was. `LOGGING_DIR/Demo/stages_log.txt`
    lists every stage with its files and, where it has any, its test metrics.
    """
    make_raw(data_dir)
    stages = Pipeline(dataset_folder(data_dir, DATASET), Path(logging_dir) / DATASET)
    with stages.begun():
        stages.run([f"{DATASET}.txt"], amazon, ["--dataset", DATASET, "--data_dir", str(data_dir)])
    settings = TableSettings(DATASET, str(data_dir), output_dir=str(output_dir), logging_dir=str(logging_dir))
    make_tables(settings, GRAPH_FLAGS, SEQUENCE_FLAGS)


def ensure_demo_data(settings: Settings) -> None:
    """Make the files of the demo category where they are absent; do nothing for any other dataset."""
    if settings.dataset == DATASET:
        run_on_main_process(ensure_demo, settings.data_dir, settings.output_dir, settings.logging_dir)
