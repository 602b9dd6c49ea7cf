"""Interaction file to training samples, evaluation users and batches (SPEC.md section 1)."""

from collections.abc import Iterator

import numpy as np

BUCKET_BATCHES = 50  # batches that are sorted by length together


def training_batches(
    length: np.ndarray, batch_size: int, seed: int, epoch: int, tokens: int = 0, constant: int = 0
) -> list[np.ndarray]:
    """Rows of every optimiser step of an epoch: shuffled, but with similar lengths together, in shuffled order.

    The same seed and epoch give the same steps. Counted in samples, up to batch_size - 1 of them, other ones every
    epoch, are left over (the published steps per epoch); an epoch never has less than one step.

    Args:
        length: history length of every sample (N,).
        batch_size: samples a step; with `tokens` it only sets among how many samples lengths are sorted.
        tokens: positions a step, padding and the `constant` positions of each row's prompt among them; 0: count rows.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(length))
    if not tokens:
        order = order[: max(len(length) // batch_size, 1) * batch_size]
    steps, pool = [], BUCKET_BATCHES * batch_size
    for first in range(0, len(order), pool):
        chunk = order[first : first + pool]
        chunk = chunk[np.argsort(length[chunk], kind="stable")]
        steps += split_microbatches(chunk, length, batch_size, tokens, constant)
    return [steps[step] for step in rng.permutation(len(steps))]


def split_microbatches(
    rows: np.ndarray, length: np.ndarray, batch_size: int, tokens: int, constant: int
) -> list[np.ndarray]:
    """Pieces of `rows` of batch_size samples or, with `tokens`, of as many positions at most, one row at least.

    Args:
        rows: int64 (n,), in ascending order of length where tokens are counted. The others as in `training_batches`.
    """
    if not tokens:
        return [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    widths, pieces, first = length[rows] + constant, [], 0
    while first < len(rows):
        room = widths[first : first + max(tokens // widths[first], 1)]
        n = max(np.searchsorted(room * np.arange(1, len(room) + 1), tokens, side="right"), 1)
        pieces.append(rows[first : first + n])
        first += n
    return pieces


def scoring_batches(length: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows of every batch for scoring, longest first, so that too large a batch fails at once."""
    order = np.argsort(-length, kind="stable")
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]
