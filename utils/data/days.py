"""The optional file of days, by which it is known where the order of a user's items is real."""

from pathlib import Path

import numpy as np

from utils.data.rows import read_rows


def read_days(path: Path, n_items: np.ndarray) -> np.ndarray:
    """Read the day of each interaction, in days since the first one of its user.

    Args:
        path: one line per user, `user day day …`, in the shape of the interaction file.
        n_items: int64 (n_users,), how many items each user has there.

    Returns:
        int64 (n_interactions,), in the order of the interaction file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it breaks the format, or does not match the interaction file; names path and line.
    """
    days, length = read_rows(path)
    remedy = "make it together with the interaction file, or remove it"
    if len(length) != len(n_items):
        raise ValueError(f"{path}: {len(length)} users, but {len(n_items)} in the interaction file; {remedy}")
    if (length != n_items).any():
        user = int((length != n_items).argmax())
        problem = f"{length[user]} days, but user {user} has {n_items[user]} items"
        raise ValueError(f"{path}: line {user + 1}: {problem}; {remedy}")
    falls = np.diff(days, prepend=0) < 0
    falls[np.cumsum(length) - length] = False  # from one user to the next
    if falls.any():
        at = int(falls.argmax())
        number = 1 + int(np.searchsorted(np.cumsum(length), at, side="right"))
        problem = f"day {days[at]} after day {days[at - 1]}, but items are oldest first"
        raise ValueError(f"{path}: line {number}: {problem}; {remedy}")
    return days
