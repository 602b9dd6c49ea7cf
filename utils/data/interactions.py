"""Interaction file to training samples, evaluation users and batches (SPEC.md section 1)."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MANY_ITEMS, SPARSE_ID_LIMIT = 1_000_000, 1000  # a file with less than one in SPARSE of so many ids is mistaken


@dataclass(frozen=True)
class Samples:
    """Histories with the item that follows: history = items[begin : begin + length], target = items[begin + length]."""

    user: np.ndarray  # int64 (N,)
    begin: np.ndarray  # int64 (N,), positions in Interactions.items
    length: np.ndarray  # int64 (N,), at least 1
    every: bool = False  # each item but the first of history and target is a target, not the last alone

    def __len__(self) -> int:
        return len(self.user)

    def n_targets(self, rows: np.ndarray | slice = slice(None)) -> int:
        """Number of items that some of the histories, or all, predict."""
        length = self.length[rows]
        return int(length.sum()) if self.every else len(length)


class Interactions:
    """Every user's items, and the leave-one-out split of the last `max_len` of them.

    Args:
        path: one line a user, `user item item …`, both numbered from 0, users in order, items oldest first.
        max_len: how many last items of a user samples are made of, both targets among them; 0: all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of what does not follow the format.
    """

    def __init__(self, path: str | Path, max_len: int) -> None:
        self.path = Path(path)
        sequences = _read_sequences(self.path)
        self.n_users = len(sequences)
        self.items = np.concatenate(sequences)
        self.n_interactions, self.n_items = len(self.items), 1 + int(self.items.max())
        length = np.array([len(s) for s in sequences])
        end = np.cumsum(length)
        self.first = end - length  # place of each user's oldest item of all
        self.count = np.minimum(length, max_len or length)
        self.begin = end - self.count

    def train(self) -> Samples:
        """Every proper prefix of all but a user's last two items, with the item that follows it."""
        per_user = np.maximum(self.count - 3, 0)
        user = np.repeat(np.arange(self.n_users), per_user)
        first = np.cumsum(per_user) - per_user
        length = np.arange(len(user)) - first[user] + 1
        return Samples(user, self.begin[user], length)

    def train_users(self) -> Samples:
        """The same samples a user at a time: each item of a history but its first is a target."""
        user = np.flatnonzero(self.count > 3)
        return Samples(user, self.begin[user], self.count[user] - 3, every=True)

    def training(self, objective: str) -> Samples:
        """What an objective, prefix or causal, is trained on."""
        return self.train_users() if objective == "causal" else self.train()

    def validation(self) -> Samples:
        """Users with at least three items: all but the last two, and the last but one as target."""
        return self._hold_out(2)

    def test(self) -> Samples:
        """Users with at least two items: all but the last, which is the target."""
        return self._hold_out(1)

    def _hold_out(self, last: int) -> Samples:
        user = np.flatnonzero(self.count > last)
        return Samples(user, self.begin[user], self.count[user] - last)

    def whole(self, samples: Samples) -> Samples:
        """The same samples with all older items of their users in front of the histories."""
        begin = self.first[samples.user]
        return replace(samples, begin=begin, length=samples.begin - begin + samples.length)

    def training_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of every interaction outside the two held-out positions: int64 (N,) each."""
        held_out = np.zeros(len(self.items), dtype=bool)
        end = self.begin + self.count
        for last in (1, 2):
            held_out[(end - last)[self.count >= last]] = True
        return np.repeat(np.arange(self.n_users), end - self.first)[~held_out], self.items[~held_out]

    def popularity(self) -> np.ndarray:
        """How often each item occurs outside the two held-out positions: int64 (n_items,)."""
        return np.bincount(self.training_pairs()[1], minlength=self.n_items)

    def batch(self, samples: Samples, rows: np.ndarray) -> tuple[Tensor, Tensor | None, Tensor]:
        """Some samples as tensors.

        Returns: items int64 (B, T), left-padded with 0; mask bool (B, T), False at padding, None without any;
            targets int64 (B,), or (B, T), padded like items, of samples with `every`.
        """
        begin, length = samples.begin[rows], samples.length[rows]
        offset = np.arange(length.max()) - (length.max() - length)[:, None]  # (B, T), negative at padding
        real = offset >= 0
        place = begin[:, None] + np.maximum(offset, 0)
        mask = None if real.all() else torch.from_numpy(real)
        targets = self.items[place + 1] * real if samples.every else self.items[begin + length]
        return torch.from_numpy(self.items[place] * real), mask, torch.from_numpy(targets)


def require_trainable(data: Interactions) -> None:
    """See that some user has an item to train on, and one before it, outside the two held-out positions.

    Raises:
        ValueError: naming the file.
    """
    if not len(data.train()):
        raise ValueError(f"{data.path}: no user has the four items to train on; take data with longer histories")


def _read_sequences(path: Path) -> list[np.ndarray]:
    sequences = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                sequences.append(_read_line(path, number, line))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text file of numbers ({error.reason} at byte {error.start}); fetch it again"
        ) from error
    if not sequences:
        raise ValueError(f"{path}: empty; one line a user is expected: user item item …")
    items = np.unique(np.concatenate(sequences))
    smallest, largest = int(items[0]), int(items[-1])
    if smallest > 0:
        raise ValueError(
            f"{path}: items start at {smallest}, so item 0 is missing: this looks like the 1-based layout of the data; "
            "take 1 from every number, or fetch the 0-based file"
        )
    if not largest:
        raise ValueError(f"{path}: item 0 is the only one; two or more are expected, fetch it again or add some")
    if largest >= max(MANY_ITEMS, SPARSE_ID_LIMIT * len(items)):
        number = next(number for number, s in enumerate(sequences, 1) if largest in s)
        raise ValueError(
            f"{path}: line {number}: item {largest}, but there are only {len(items)} different ones in the file; "
            "number them 0, 1, 2, … without gaps"
        )
    return sequences


def _read_line(path: Path, number: int, line: str) -> np.ndarray:
    where, words = f"{path}: line {number}", line.split()
    if not words:
        raise ValueError(f"{where} is empty; remove it, or give user {number - 1} its items")
    for word in words:
        if not (word.isascii() and word.isdigit()) or len(word) > 9:
            raise ValueError(
                f"{where}: {word[:40]!r} is not an id; write whole numbers, 0 to 999999999, separated by single spaces"
            )
    user, items = int(words[0]), words[1:]
    if number == 1 and user == 1:
        raise ValueError(
            f"{where}: the first user is 1: this is the 1-based layout of the data, which shifts every item; "
            "take 1 from every number, or fetch the 0-based file"
        )
    if user != number - 1:
        raise ValueError(f"{where}: user {user} where {number - 1} belongs; number users 0, 1, 2, … in order")
    if not items:
        raise ValueError(f"{where}: user {user} has no item; give it some, or remove it and number the others anew")
    return np.array(items, dtype=np.int64)
