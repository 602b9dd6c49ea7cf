"""The interaction file, and the samples that the leave-one-out split makes of it (docs/method.md, section 1)."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from utils.data.days import read_days
from utils.data.layout import days_file
from utils.data.rows import read_rows

# Ids are refused if the largest is at least MIN_SPARSE_ID and fewer than one in SPARSE_ID_LIMIT of them occur.
MIN_SPARSE_ID = 1_000_000
SPARSE_ID_LIMIT = 1000


@dataclass(frozen=True)
class Samples:
    """Histories and the item that follows each: index ranges into `Interactions.items`, one entry per sample.

    The history of sample n is items[start[n] : start[n] + length[n]], and its target is the item after it. With
    `predict_all_positions` each position of the history predicts the next item, so that there are length[n] targets.
    """

    user: np.ndarray  # int64 (N,)
    start: np.ndarray  # int64 (N,), where the history starts in Interactions.items
    length: np.ndarray  # int64 (N,), items of the history, at least 1
    predict_all_positions: bool = False

    def __len__(self) -> int:
        return len(self.user)

    def n_targets(self, rows: np.ndarray | slice = slice(None)) -> int:
        """Return how many targets some samples, or all, have."""
        length = self.length[rows]
        return int(length.sum()) if self.predict_all_positions else len(length)


class Interactions:
    """Every user's items, and the leave-one-out split of the last `max_len` of them.

    `items` has the users' rows one after another, oldest item first. Histories and targets are taken from the last
    n_kept items of a row; `n_seen`, `seen_items` and `training_pairs` also count the items before them. One row:

        full_start       start                                    start + n_kept
        | a  b  c  d     | e  f  g  h  i     v           t        |
          in no history    trained on        validation  test
                                             target      target

        prefix_samples   [e] → f   [e f] → g   [e f g] → h   [e f g h] → i    one sample per target
        user_samples     [e f g h] → f g h i                                  one per user, predict_all_positions
        validation       [e f g h i] → v
        test             [e f g h i v] → t

    Args:
        path: one line per user, `user item item …`, both numbered from 0, users in order, items oldest first.
        max_len: how many of a user's last items are kept, both held-out targets among them; 0: all.
        with_days: read the optional file of days beside it, too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file breaks the format, or the two do not match; names path and line.
    """

    def __init__(self, path: str | Path, max_len: int, with_days: bool = True) -> None:
        self.path = Path(path)
        self.items, length = read_rows(self.path)
        _check_items(self.path, self.items, length)
        self.n_users = len(length)
        self.n_interactions = len(self.items)
        self.n_items = 1 + int(self.items.max())
        end = np.cumsum(length)
        self.full_start = end - length  # int64 (n_users,), as are the next two
        self.n_kept = np.minimum(length, max_len or length)
        self.start = end - self.n_kept
        self.days_path = self.path.with_name(days_file(self.path.stem))
        self.days = None  # int64 (n_interactions,), the day of each item; None: unknown
        if with_days and self.days_path.exists():
            self.days = read_days(self.days_path, length)

    def kept_items(self, user: int) -> np.ndarray:
        """Return a user's last `max_len` items, oldest first: int64 (n_kept,)."""
        return self.items[self.start[user] : self.start[user] + self.n_kept[user]]

    def prefix_samples(self) -> Samples:
        """Return every proper prefix of all but a user's last two items, with the item that follows it."""
        per_user = np.maximum(self.n_kept - 3, 0)
        user = np.repeat(np.arange(self.n_users), per_user)
        first_sample = np.cumsum(per_user) - per_user  # number of each user's first sample
        length = np.arange(len(user)) - first_sample[user] + 1  # 1, 2, … within each user
        return Samples(user, self.start[user], length)

    def user_samples(self) -> Samples:
        """Return the same targets as one sample per user, which predicts all positions."""
        user = np.flatnonzero(self.n_kept > 3)
        return Samples(user, self.start[user], self.n_kept[user] - 3, predict_all_positions=True)

    def training_samples(self, objective: str) -> Samples:
        """Return the training samples of an objective, prefix or causal."""
        return self.user_samples() if objective == "causal" else self.prefix_samples()

    def validation(self) -> Samples:
        """Return the second-to-last items as targets, of users with at least three."""
        return self._hold_out(2)

    def test(self) -> Samples:
        """Return the last items as targets, of users with at least two."""
        return self._hold_out(1)

    def _hold_out(self, last: int) -> Samples:
        user = np.flatnonzero(self.n_kept > last)
        return Samples(user, self.start[user], self.n_kept[user] - last)

    def targets(self, samples: Samples) -> np.ndarray:
        """Return the item that follows each history: int64 (N,)."""
        return self.items[samples.start + samples.length]

    def is_later_day(self, samples: Samples) -> np.ndarray | None:
        """Return whether each target falls on a later day than the last item of its history: bool (N,), or None.

        None: days are unknown. The order of items of one day is unknown, too: it is that of their ids.
        """
        if self.days is None:
            return None
        target = samples.start + samples.length
        return self.days[target] > self.days[target - 1]

    def shuffle_ties(self, rng: np.random.Generator) -> Self:
        """Return the same data with the items of one day in random order, where they are trained on; needs the days.

        The last two items of a user, which validation and test predict, stay where they are, and so do items in no
        history.
        """
        length = self.start + self.n_kept - self.full_start
        position = np.arange(self.n_interactions)
        trained_end = self.start + np.maximum(self.n_kept - 2, 0)
        is_trained = (position >= np.repeat(self.start, length)) & (position < np.repeat(trained_end, length))
        # Items are exchanged with those before them that are of the same user and day, and are trained on, too
        is_tied = is_trained & np.roll(is_trained, 1) & (np.diff(self.days, prepend=-1) == 0)
        is_tied[self.full_start] = False
        group = np.cumsum(~is_tied)
        shuffled = copy.copy(self)
        shuffled.items = self.items[np.lexsort((rng.random(self.n_interactions), group))]
        return shuffled

    def n_seen(self, samples: Samples, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return how many items precede the targets of some samples, or all, beyond `max_len` included: int64 (N,)."""
        return samples.start[rows] + samples.length[rows] - self.full_start[samples.user[rows]]

    def seen_items(self, samples: Samples, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the items before the targets of some samples, or all, beyond `max_len` included, as (row, item) pairs.

        Returns:
            int64 (2, n): the number of the row among `rows`, ascending, and an item of it, oldest first.
        """
        length = self.n_seen(samples, rows)
        row = np.repeat(np.arange(len(length)), length)
        first_pair = np.cumsum(length) - length  # number of each row's first pair
        offset = np.arange(len(row)) - first_pair[row]  # 0, 1, … within each row
        return np.stack([row, self.items[self.full_start[samples.user[rows]][row] + offset]])

    def training_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return users and items of all interactions but each user's last two: int64 (N,) each.

        Interactions that are older than the last `max_len` are included.
        """
        held_out = np.zeros(len(self.items), dtype=bool)
        end = self.start + self.n_kept
        for last in (1, 2):
            held_out[(end - last)[self.n_kept >= last]] = True
        return np.repeat(np.arange(self.n_users), end - self.full_start)[~held_out], self.items[~held_out]

    def popularity(self) -> np.ndarray:
        """Return how often each item occurs in the training interactions: int64 (n_items,)."""
        return np.bincount(self.training_pairs()[1], minlength=self.n_items)


def require_trainable(data: Interactions) -> None:
    """Check that some user has an item to train on, and one before it, besides the two held-out ones.

    Raises:
        ValueError: nobody has; names the file.
    """
    if not len(data.prefix_samples()):
        raise ValueError(f"{data.path}: no user has the four items to train on; take data with longer histories")


def _check_items(path: Path, items: np.ndarray, length: np.ndarray) -> None:
    """Refuse items that are not numbered 0, 1, 2, …, as far as the numbers tell.

    Raises:
        ValueError: naming path and, of a single number, its line.
    """
    smallest = int(items.min())
    largest = int(items.max())
    if smallest > 0:
        raise ValueError(
            f"{path}: items start at {smallest}, so item 0 is missing: this looks like the 1-based layout of the data; "
            "take 1 from every number, or download the 0-based file"
        )
    if not largest:
        raise ValueError(f"{path}: item 0 is the only one; two or more are expected, download it again or add some")
    if largest < MIN_SPARSE_ID:
        return
    n_items = len(np.unique(items))
    if largest >= SPARSE_ID_LIMIT * n_items:
        number = 1 + int(np.searchsorted(np.cumsum(length), items.argmax(), side="right"))
        raise ValueError(
            f"{path}: line {number}: item {largest}, but there are only {n_items} different ones in the file; "
            "number them 0, 1, 2, … without gaps"
        )
