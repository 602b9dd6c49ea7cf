"""The interaction file, and the samples that the leave-one-out split makes of it (docs/method.md, section 1)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Ids are refused if the largest is at least MIN_SPARSE_ID and fewer than one in SPARSE_ID_LIMIT of them occur.
MIN_SPARSE_ID = 1_000_000
SPARSE_ID_LIMIT = 1000
MAX_DIGITS = 9  # of an id
BLOCK_BYTES = 2**22  # of the file, read at a time


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

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file breaks the format; names path and line.
    """

    def __init__(self, path: str | Path, max_len: int) -> None:
        self.path = Path(path)
        # The quick way knows well-formed files only; the other one says what is wrong, and where
        self.items, length = _read_blocks(self.path) or _read_by_line(self.path)
        _check_items(self.path, self.items, length)
        self.n_users = len(length)
        self.n_interactions = len(self.items)
        self.n_items = 1 + int(self.items.max())
        end = np.cumsum(length)
        self.full_start = end - length  # int64 (n_users,), as are the next two
        self.n_kept = np.minimum(length, max_len or length)
        self.start = end - self.n_kept

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


def _read_blocks(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the items of all users, and the number of each user's, of a file that follows the format to the letter.

    Returns:
        int64 (n_interactions,) and int64 (n_users,); None of any other file, which `_read_by_line` reads or refuses.
    """
    items = []
    lengths = []
    n_users = 0
    with path.open("rb") as file:
        while lines := file.readlines(BLOCK_BYTES):
            block = _parse_block(b"".join(lines), n_users)
            if block is None:
                return None
            items.append(block[0])
            lengths.append(block[1])
            n_users += len(lines)
    return (np.concatenate(items), np.concatenate(lengths)) if items else None


def _parse_block(block: bytes, first_user: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the items of some lines, and the number of each line's; None where a line does not follow the format."""
    if not block.endswith(b"\n"):
        block += b"\n"
    byte = np.frombuffer(block, np.uint8)
    is_digit = (byte >= ord("0")) & (byte <= ord("9"))
    is_newline = byte == ord("\n")
    if not (is_digit | is_newline | (byte == ord(" "))).all():
        return None
    # A word begins at a digit behind something else, and ends before something else
    bounds = np.flatnonzero(np.diff(is_digit, prepend=False))
    word_start = bounds[::2]
    word_end = bounds[1::2]
    words_per_line = np.diff(np.searchsorted(word_start, np.flatnonzero(is_newline)), prepend=0)
    if words_per_line.min() < 2 or (word_end - word_start).max() > MAX_DIGITS:
        return None
    numbers = np.fromstring(block, np.int64, sep=" ")
    user_position = np.cumsum(words_per_line) - words_per_line
    if (numbers[user_position] != np.arange(first_user, first_user + len(words_per_line))).any():
        return None
    return np.delete(numbers, user_position), words_per_line - 1


def _read_by_line(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as `_read_blocks`, of any file in the format.

    Raises:
        ValueError: naming path and line of what does not follow the format.
    """
    rows = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                rows.append(_parse_line(path, number, line))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text file of numbers ({error.reason} at byte {error.start}); download it again"
        ) from error
    if not rows:
        raise ValueError(f"{path}: empty; one line per user is expected: user item item …")
    return np.concatenate(rows), np.array([len(row) for row in rows])


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


def _parse_line(path: Path, number: int, line: str) -> np.ndarray:
    where = f"{path}: line {number}"
    words = line.split()
    if not words:
        raise ValueError(f"{where} is empty; remove it, or give user {number - 1} its items")
    for word in words:
        if not (word.isascii() and word.isdigit()) or len(word) > MAX_DIGITS:
            raise ValueError(
                f"{where}: {word[:40]!r} is not an id; write whole numbers, 0 to 999999999, separated by single spaces"
            )
    user = int(words[0])
    items = words[1:]
    if number == 1 and user == 1:
        raise ValueError(
            f"{where}: the first user is 1: this is the 1-based layout of the data, which shifts every item; "
            "take 1 from every number, or download the 0-based file"
        )
    if user != number - 1:
        raise ValueError(f"{where}: user {user} where {number - 1} belongs; number users 0, 1, 2, … in order")
    if not items:
        raise ValueError(f"{where}: user {user} has no item; give it some, or remove it and renumber the others")
    return np.array(items, dtype=np.int64)
