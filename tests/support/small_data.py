"""A dataset folder of a few hundred lines, with a pattern to learn: item i is usually followed by i + 1."""

from pathlib import Path

import numpy as np
import torch

N_USERS, N_ITEMS, WIDTH = 120, 40, 6
# Keys whose values differ between the records of two equal runs; the settings name the run
RUN_SPECIFIC_KEYS = {"seconds", "samples_per_s", "users_per_s", "peak_memory_bytes", "settings"}


def sequences(seed: int = 0) -> list[list[int]]:
    """Sample the items of each user, oldest first: 5 to 11 of them."""
    rng = np.random.default_rng(seed)
    users = []
    for user in range(N_USERS):
        items = [user % N_ITEMS]
        for _ in range(rng.integers(4, 11)):
            step = 1 if rng.random() < 0.7 else int(rng.integers(2, N_ITEMS))
            items.append((items[-1] + step) % N_ITEMS)
        users.append(items)
    return users


def write_interactions(data_dir: Path, name: str = "Small") -> Path:
    """Write an interaction file below `data_dir`; return its folder."""
    folder = Path(data_dir) / "sequential" / name
    folder.mkdir(parents=True)
    lines = [" ".join(map(str, [user, *items])) for user, items in enumerate(sequences())]
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_days(folder: Path) -> None:
    """Write a file of days: six of ten items fall on the day of the one before."""
    rng = np.random.default_rng(1)
    days = [np.cumsum(rng.random(len(items)) < 0.4) for items in sequences()]
    lines = [" ".join(map(str, [user, *(row - row[0])])) for user, row in enumerate(days)]
    (folder / "Small_days.txt").write_text("\n".join(lines) + "\n")


def write_texts(folder: Path) -> None:
    """Write a text per item; four successive items share a rare word."""
    titles = [f"{item}\tA{item}\tgroup{item // 4} thing{item % 4} nice" for item in range(N_ITEMS)]
    (folder / "item_text.tsv").write_text("\n".join(["item_id\tasin\ttext", *titles]) + "\n")


def write_dataset(data_dir: Path, name: str = "Small") -> Path:
    """Write an interaction file and both embedding tables below `data_dir`; return their folder."""
    folder = write_interactions(data_dir, name)
    generator = torch.Generator().manual_seed(0)
    torch.save(torch.randn(N_ITEMS, WIDTH, generator=generator), folder / "MMHCL_item_embeddings.pt")
    torch.save(torch.randn(N_ITEMS + 1, WIDTH, generator=generator), folder / "SASRec_item_embedding.pt")
    return folder


def command(tmp_path: Path, *more: str) -> list[str]:
    """Return flags of a run on the small dataset that writes below `tmp_path`."""
    return [
        *("--preset", "tiny", "--dataset", "Small", "--data_dir", str(tmp_path / "data")),
        *("--output_dir", str(tmp_path / "output"), "--logging_dir", str(tmp_path / "log")),
        *("--device", "cpu", "--batch_size", "8", "--num_epochs", "2", "--eval_batch_size", "50", *more),
    ]


def short_command(tmp_path: Path, *more: str) -> list[str]:
    """Return flags of a short run: one epoch of 18 steps."""
    return command(tmp_path, "--num_epochs", "1", "--batch_size", "32", *more)
