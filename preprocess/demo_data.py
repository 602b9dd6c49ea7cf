"""A small synthetic category to try everything on: tastes, and habits of what follows what."""

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds

from llama.checkpoint import save_atomically
from utils.data import check_files, dataset_folder, required_files

DATASET = "Demo"
N_USERS, N_ITEMS, N_TASTES, WIDTH = 1000, 400, 20, 32
P_HABIT, P_TASTE = 0.5, 0.35  # next by habit; else by taste; else by popularity


def make_sequences(seed: int = 0) -> list[np.ndarray]:
    """Purchases of every user, oldest first, each item once.

    Items belong to tastes and have a usual successor each; a user has two tastes.
    """
    rng = np.random.default_rng(seed)
    taste_of = rng.permutation(N_ITEMS) % N_TASTES
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


def item_tables(sequences: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Graph (I, WIDTH) and sequence (I + 1, WIDTH) embeddings from truncated SVDs of the training part alone.

    The first comes from who bought what, the second from what was bought after what.
    """
    train = [s[:-2] for s in sequences]
    users = np.repeat(np.arange(len(train)), [len(s) for s in train])
    bought = sp.csr_matrix((np.ones(len(users)), (users, np.concatenate(train))), (len(train), N_ITEMS))
    before, after = (np.concatenate([s[cut] for s in train]) for cut in (slice(None, -1), slice(1, None)))
    followed = sp.csr_matrix((np.ones(len(before)), (before, after)), (N_ITEMS, N_ITEMS))
    graph = _right_vectors(bought)
    sequence = _right_vectors(followed.T.tocsr())
    return graph, torch.cat([torch.zeros(1, WIDTH), sequence])


def _right_vectors(matrix: sp.csr_matrix) -> torch.Tensor:
    degree = np.sqrt(np.maximum(np.asarray(matrix.sum(0)).ravel(), 1))
    _, strength, vectors = svds(matrix @ sp.diags(1 / degree), k=WIDTH, random_state=0)
    table = torch.from_numpy((vectors.T * np.sqrt(strength)).copy()).float()
    return table / table.std()


def ensure_demo(data_dir: str | Path) -> None:
    """Make the demo category's files where they are absent."""
    names = required_files(DATASET, "MMHCL")
    try:
        check_files(data_dir, DATASET, names)
    except FileNotFoundError:
        folder = dataset_folder(data_dir, DATASET)
        folder.mkdir(parents=True, exist_ok=True)
        sequences = make_sequences()
        for name, table in zip(names[1:], item_tables(sequences), strict=True):
            save_atomically(table, folder / name)
        lines = (" ".join(map(str, [user, *items])) for user, items in enumerate(sequences))
        temporary = folder / f"{names[0]}.tmp"
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")
        temporary.replace(folder / names[0])  # last, so that an interrupted run starts again
