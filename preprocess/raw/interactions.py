"""Collect raw interactions in columns, drop repeats and filter them to their k-core."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.raw.item_files import ASIN
from utils.data.ids import numeric_order

SECONDS_PER_DAY = 86_400
KNOWN_SECONDS = (315_532_800, 4_102_444_800)  # since 1970, the years 1980 to 2099: times that are taken for dates


@dataclass
class RawInteractions:
    """Interactions in columns; users and items are indices into `user_ids` and `item_ids`."""

    user: np.ndarray  # int32 (N,)
    item: np.ndarray  # int32 (N,)
    time: np.ndarray  # int64 (N,), any unit
    user_ids: list[str]
    item_ids: list[str]
    units_per_day: int | None = None  # of `time`, which then counts from 1970; None: not known

    def __len__(self) -> int:
        return len(self.user)

    def describe(self) -> str:
        """Return the number of users, items and interactions in words."""
        return f"{len(self.user_ids):,} users, {len(self.item_ids):,} items, {len(self):,} interactions"

    def select(self, rows: np.ndarray, by_number: bool = False) -> "RawInteractions":
        """Return some of the interactions, with users and items renumbered by sorted id (`_renumber`)."""
        user, user_ids = _renumber(self.user[rows], self.user_ids, by_number)
        item, item_ids = _renumber(self.item[rows], self.item_ids, by_number)
        return RawInteractions(user, item, self.time[rows], user_ids, item_ids, self.units_per_day)


def _renumber(index: np.ndarray, ids: list[str], by_number: bool) -> tuple[np.ndarray, list[str]]:
    """Return the indices and ids, restricted to the ids that occur and sorted by id.

    Args:
        index: int (N,), positions in `ids`.
        ids: encoded ids.
        by_number: order ids by their numbers if all that occur are whole numbers, else, as published, as text.
    """
    used = np.flatnonzero(np.bincount(index, minlength=len(ids))).tolist()
    order = numeric_order([ids[old] for old in used]) if by_number else None
    used = sorted(used, key=ids.__getitem__) if order is None else [used[position] for position in order]
    new_index = np.full(len(ids), -1, np.int32)
    new_index[used] = np.arange(len(used))
    return new_index[index], [ids[old] for old in used]


def collect_interactions(rows: Iterable[tuple[str, str, str, float]], times: array | list) -> RawInteractions:
    """Collect interactions in columns, with users and items numbered in the order of their first appearance.

    Args:
        rows: position (path and line) for error messages, user, item and time of each interaction.
        times: empty container of the times: `array("q")` for integers, a list for numbers of any kind.

    Raises:
        ValueError: a user or item is not an id that a file can contain (`item_files.ASIN`).
    """
    user_index = _Numbering()
    item_index = _Numbering()
    users = array("i")
    items = array("i")
    for where, user, item, time in rows:
        try:
            users.append(user_index[user])
            items.append(item_index[item])
        except _InvalidIdError as error:
            raise ValueError(f"{where}: {error} is not an id; remove the line or correct it") from None
        times.append(time)
    return RawInteractions(np.asarray(users), np.asarray(items), np.asarray(times), list(user_index), list(item_index))


class _InvalidIdError(ValueError):
    """A string that files cannot contain as an id; the message is its beginning."""


class _Numbering(dict):
    """Number of each id in the order of first use."""

    def __missing__(self, name: str) -> int:
        if not ASIN.fullmatch(name):
            raise _InvalidIdError(f"{name!r:.60}")
        return self.setdefault(name, len(self))


def drop_duplicates(interactions: RawInteractions) -> np.ndarray:
    """Return the rows of the first of each (user, item, time), in order: int64 (n,)."""
    columns = (interactions.time, interactions.item, interactions.user)
    order = np.lexsort(columns)  # stable, so that the first of equal rows stays first
    changes = [np.diff(column[order]) != 0 for column in columns]
    is_new = np.concatenate([[True], np.any(changes, axis=0)])
    return np.sort(order[is_new])


def k_core(user: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """Remove users and items with less than k interactions until none is left; return the rows kept: int64 (n,)."""
    rows = np.arange(len(user))
    while True:
        user_is_frequent = np.bincount(user[rows])[user[rows]] >= k
        item_is_frequent = np.bincount(item[rows])[item[rows]] >= k
        kept = rows[user_is_frequent & item_is_frequent]
        if len(kept) == len(rows):
            return rows
        rows = kept


def utc_days(interactions: RawInteractions) -> np.ndarray | None:
    """Return the day of each interaction in UTC, since 1970: int64 (N,).

    None unless the times count from 1970 and all are of the years 1980 to 2099.
    """
    if interactions.units_per_day is None:
        return None
    day = interactions.time // interactions.units_per_day
    first, end = (seconds // SECONDS_PER_DAY for seconds in KNOWN_SECONDS)
    return day if first <= day.min() and day.max() < end else None


def deduplicate_and_k_core(
    interactions: RawInteractions, k: int, source: Path, by_number: bool = False
) -> tuple[RawInteractions, dict]:
    """Drop repeated interactions, then keep the k-core.

    Args:
        interactions: everything that was read.
        k: least number of interactions of a user or item.
        source: file that was read, for the error message.
        by_number: number users and items in the order of their ids as numbers, where all are whole numbers.

    Returns:
        The interactions that are left, and the counts for `statistics.json`.

    Raises:
        ValueError: none is left.
    """
    distinct = drop_duplicates(interactions)
    rows = distinct[k_core(interactions.user[distinct], interactions.item[distinct], k)]
    core = interactions.select(rows, by_number)
    if not len(core):
        raise ValueError(f"{source}: no user and item with {k} interactions each; try a lower --k_core")
    return core, {"reviews": len(interactions), "repeated": len(interactions) - len(distinct)}
