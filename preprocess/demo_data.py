"""A small synthetic category to try everything on: tastes, words for them, and habits of what follows what."""

import sys
from pathlib import Path

import numpy as np

from preprocess import features, pretrain_graph, pretrain_sasrec
from utils.data import dataset_folder
from utils.files import replacing

DATASET = "Demo"
N_USERS, N_ITEMS, N_TASTES = 1000, 400, 20
P_HABIT, P_TASTE = 0.5, 0.35  # next by habit; else by taste; else by popularity
WORD_BEGINNINGS = ["blue", "soft", "warm", "mini", "dark", "gold", "silk", "lime", "rose", "pure", "wild", "calm"]
WORD_ENDS = ["cream", "brush", "lamp", "stone", "paper", "glass", "cloth", "spoon", "fence", "light", "wheel", "shell"]
GRAPH_FLAGS = "--lr 3e-3 --batch_size 256 --embed_dim 32 --num_epochs 40"
SEQUENCE_FLAGS = "--lr 3e-3 --batch_size 32 --width 32 --hidden 32 --dropout 0.2 --num_epochs 20"


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


def write_text(path: Path, lines: list[str]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ensure_demo(data_dir: str, output_dir: str, logging_dir: str) -> None:
    """Make the demo category's files where they are absent: sequences and texts, text features, both tables.

    What is there is left alone, so that an interrupted demo goes on where it was.
    """
    folder = dataset_folder(data_dir, DATASET)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "item_text.tsv").exists():
        titles = (f"{item}\tDEMO{item:06}\t{title}" for item, title in enumerate(make_texts()))
        write_text(folder / "item_text.tsv", ["item_id\tasin\ttext", *titles])
    if not (folder / f"{DATASET}.txt").exists():
        users = enumerate(make_sequences())
        write_text(folder / f"{DATASET}.txt", [" ".join(map(str, [user, *items])) for user, items in users])
    place = ["--dataset", DATASET, "--data_dir", str(data_dir)]
    runs = [*place, "--output_dir", str(output_dir), "--logging_dir", str(logging_dir), "--resume"]
    for made, program, argv in (
        ("text_feat.npy", features, ["text", *place, "--width", "32"]),
        (pretrain_graph.table_names("MMHCL")[1], pretrain_graph, [*runs, *GRAPH_FLAGS.split()]),
        (pretrain_sasrec.TABLE, pretrain_sasrec, [*runs, *SEQUENCE_FLAGS.split()]),
    ):
        if not (folder / made).exists():
            status = program.main(argv)
            if status:
                sys.exit(status)
