"""Rank all items for every user of a split."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm import tqdm

from utils.data import Interactions, Samples, scoring_batches
from utils.metrics import ranks, remove_seen


@dataclass
class Ranking:
    """Rank of every user's target, in the order of the samples; and how fast they were scored."""

    seen_kept: np.ndarray  # int64 (N,), the published protocol
    seen_removed: np.ndarray  # int64 (N,), the user's history taken out of the ranking
    users_per_s: float


@torch.no_grad()
def rank_all(
    score: Callable[[Tensor, Tensor | None], Tensor],
    data: Interactions,
    samples: Samples,
    batch_size: int,
    device: torch.device | str = "cpu",
    title: str = "",
    check: Callable[[], None] = lambda: None,
) -> Ranking:
    """Score every sample's history against all items.

    Args:
        score: a model in evaluation mode, (items, mask) to float (B, I).
        data, samples: the split to rank; batch_size: users a forward pass.
        title: of the progress bar; check: called between batches, may raise to stop.
    """
    return rank_newest(
        lambda items, mask: score(items, mask)[:, None], data, samples, batch_size, device, title, check
    )[0]


@torch.no_grad()
def rank_newest(
    score: Callable[[Tensor, Tensor | None], Tensor],
    data: Interactions,
    samples: Samples,
    batch_size: int,
    device: torch.device | str = "cpu",
    title: str = "",
    check: Callable[[], None] = lambda: None,
) -> list[Ranking]:
    """Rank the target of every sample, and the newest items of its history as targets of what comes before them.

    Args:
        score: (items, mask) to float (B, K, I), a row for each of the K newest positions, oldest first.
        The others as in `rank_all`.

    Returns: K rankings, that of the samples' targets first; the k-th is of the samples with more than k items.
    """
    parts, started = {}, time.perf_counter()
    with tqdm(total=len(samples), desc=title, unit="users", disable=None, leave=False) as bar:
        for rows in scoring_batches(samples.length, batch_size):
            check()
            items, mask, targets = (
                t if t is None else t.to(device, non_blocking=True) for t in data.batch(samples, rows)
            )
            for back, scores in enumerate(score(items, mask).unbind(1)[::-1]):
                if back:
                    targets, items, mask = items[:, -1], items[:, :-1], None if mask is None else mask[:, :-1]
                removed = remove_seen(scores, items, mask, targets)
                both = torch.stack([ranks(scores, targets), ranks(removed, targets)]).cpu().numpy()
                parts.setdefault(back, np.empty((2, len(samples)), np.int64))[:, rows] = both
            bar.update(len(rows))
    speed = len(samples) / (time.perf_counter() - started)
    return [Ranking(*both[:, samples.length > back], speed) for back, both in parts.items()]


@torch.no_grad()
def rank_by_product(
    users: Tensor, items: Tensor, seen: sp.csr_matrix, who: np.ndarray, targets: np.ndarray, block: int = 256
) -> np.ndarray:
    """Rank each target among all items by dot product, what the user has seen taken out of the ranking.

    Args:
        users, items: float (U, d) and (I, d); seen: binary (U, I).
        who, targets: int64 (N,), users and the item each of them should get; block: users at a time.

    Returns: int64 (N,), 1 the best.
    """
    result = np.empty(len(who), np.int64)
    for first in range(0, len(who), block):
        rows, target = who[first : first + block], torch.from_numpy(targets[first : first + block]).to(items.device)
        scores = users[torch.from_numpy(rows).to(users.device)] @ items.T
        own = scores.gather(1, target[:, None])
        row, item = seen[rows].nonzero()
        scores[torch.from_numpy(row).long(), torch.from_numpy(item).long()] = -torch.inf
        result[first : first + block] = ranks(scores.scatter_(1, target[:, None], own), target).cpu().numpy()
    return result


def rank_by_popularity(data: Interactions, samples: Samples) -> Ranking:
    """The baseline that recommends everybody the most bought items of the training part."""
    popularity = torch.from_numpy(data.popularity()).float()
    return rank_all(lambda items, mask: popularity.expand(len(items), -1), data, samples, batch_size=512)
