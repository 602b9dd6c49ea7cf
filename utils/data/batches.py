"""Batches: which samples go together, and how they become padded tensors."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.data.interactions import Interactions, Samples

BUCKET_BATCHES = 50  # batches whose samples are sorted by length together
POSITIONS_PER_USER = 8  # scored at once, on average: long histories go in smaller batches, which a cache holds
Padding = Literal["left", "right"]


class Batch(NamedTuple):
    """Samples as tensors."""

    items: Tensor  # int64 (B, T), histories, oldest item first, padded with item 0
    mask: Tensor | None  # bool (B, T), False at padding; None without any
    targets: Tensor  # int64 (B,); or, where all positions are predicted, (B, T), padded like items

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        return Batch(*(None if tensor is None else to_device(tensor, device) for tensor in self))


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device. A copy to a GPU is only queued, so that the program runs ahead of it."""
    device = torch.device(device)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def collate(data: Interactions, samples: Samples, rows: np.ndarray, padding: Padding = "left") -> Batch:
    """Return some samples as one batch.

    Args:
        data: interactions that the samples index.
        samples: histories and targets.
        rows: int64 (B,), which of the samples.
        padding: the side on which histories shorter than the longest are padded.
    """
    start = samples.start[rows]
    length = samples.length[rows]
    longest = length.max()
    offset = np.arange(longest)  # (T,) or (B, T): position in the history, outside of it at padding
    if padding == "left":
        offset = offset - (longest - length)[:, None]
    real = (offset >= 0) & (offset < length[:, None])
    index = start[:, None] + np.where(real, offset, 0)
    targets = data.items[index + 1] * real if samples.predict_all_positions else data.items[start + length]
    mask = None if real.all() else torch.from_numpy(real)
    return Batch(torch.from_numpy(data.items[index] * real), mask, torch.from_numpy(targets))


def training_batches(
    length: np.ndarray, batch_size: int, seed: int, epoch: int, tokens: int = 0, prompt_positions: int = 0
) -> list[np.ndarray]:
    """Return the rows of every optimizer step of an epoch: batches of similar length, in random order.

    The same seed and epoch give the same steps. Without `tokens`, the last incomplete batch is dropped, as in the
    published steps per epoch, unless it is the only one; which samples that drops changes every epoch.

    Args:
        length: int64 (N,), history length of every sample.
        batch_size: samples per step; with `tokens` it only sets among how many samples lengths are sorted.
        seed: seed of the run.
        epoch: number of the epoch.
        tokens: positions per step, padding and prompt included; 0: count samples.
        prompt_positions: prompt positions that each row adds.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(length))
    if not tokens:
        order = order[: max(len(length) // batch_size, 1) * batch_size]
    steps = []
    bucket_size = BUCKET_BATCHES * batch_size
    for first in range(0, len(order), bucket_size):
        bucket = order[first : first + bucket_size]
        bucket = bucket[np.argsort(length[bucket], kind="stable")]
        steps += split_microbatches(bucket, length, batch_size, tokens, prompt_positions)
    return [steps[step] for step in rng.permutation(len(steps))]


def split_microbatches(
    rows: np.ndarray, length: np.ndarray, batch_size: int, tokens: int, prompt_positions: int
) -> list[np.ndarray]:
    """Split rows into batches of batch_size samples; with `tokens`, of at most that many positions, at least one row.

    Args:
        rows: int64 (n,), in ascending order of length where positions are counted.
        length: int64 (N,), history length of every sample.
        batch_size: samples per batch where tokens is 0.
        tokens: positions per batch, padding and prompt included; 0: count samples.
        prompt_positions: prompt positions that each row adds.
    """
    if not tokens:
        return [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    widths = length[rows] + prompt_positions
    batches = []
    first = 0
    while first < len(rows):
        # Rows ascend, so the last one taken sets the width of all: take the most whose product is within `tokens`.
        candidates = widths[first : first + max(tokens // widths[first], 1)]
        positions = candidates * np.arange(1, len(candidates) + 1)
        n_rows = max(np.searchsorted(positions, tokens, side="right"), 1)
        batches.append(rows[first : first + n_rows])
        first += n_rows
    return batches


def scoring_batches(
    length: np.ndarray, batch_size: int, positions_per_row: int = POSITIONS_PER_USER
) -> Iterator[np.ndarray]:
    """Yield the rows of every batch for scoring, longest first, so that too large a batch fails at once.

    Args:
        length: int64 (N,), history length of every sample.
        batch_size: samples per batch, at most.
        positions_per_row: a batch has at most batch_size times as many positions, padding included, or a single row;
            0: no limit.
    """
    order = np.argsort(-length, kind="stable")
    first = 0
    while first < len(order):
        n_rows = batch_size
        if positions_per_row:
            n_rows = max(min(batch_size, batch_size * positions_per_row // length[order[first]]), 1)
        yield order[first : first + n_rows]
        first += n_rows
