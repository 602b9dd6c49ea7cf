"""Rank all items for every user of a split."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm import tqdm

from llama.parallel import all_reduce_data_parallel, dp_rank, dp_size
from utils.data.batches import scoring_batches
from utils.data.interactions import Interactions, Samples
from utils.evaluation.metrics import filter_seen, target_ranks
from utils.runtime.distributed import is_main, to_device


@dataclass
class Ranking:
    """Rank of every user's target, in the order of the samples; and how fast they were scored."""

    seen_kept: np.ndarray  # int64 (N,), the published protocol
    seen_removed: np.ndarray  # int64 (N,), the user's whole history taken out of the ranking
    users_per_s: float


@torch.no_grad()
def evaluate_ranking(
    score: Callable[[Tensor, Tensor | None], Tensor],
    data: Interactions,
    samples: Samples,
    batch_size: int,
    device: torch.device | str = "cpu",
    title: str = "",
    between_batches: Callable[[], None] = lambda: None,
    distributed: bool = False,
) -> Ranking:
    """Rank the target of every sample among all items.

    Args:
        score: a model in evaluation mode, (items, mask) to float (B, I).
        data: interactions that the samples index.
        samples: the split to rank.
        batch_size: users per forward pass.
        device: where the model scores.
        title: label of the progress bar.
        between_batches: called before each batch; may raise to stop.
        distributed: each replica of the model scores every n-th batch; all processes must call, and all get all
            ranks. They call `between_batches` together.
    """
    started, batches = time.perf_counter(), list(scoring_batches(samples.length, batch_size))
    both = samples, data.whole(samples)
    own, n = (dp_rank(), dp_size()) if distributed else (0, 1)
    parts, quiet = [], None if is_main() else True
    with tqdm(total=len(samples), desc=title, unit="users", disable=quiet, leave=False) as bar:
        for first in range(0, len(batches), n):
            between_batches()
            together = batches[first : first + n]
            for rows in together[own : own + 1]:
                parts.append((torch.from_numpy(rows), _evaluate_batch(score, data, both, rows, device)))
            bar.update(sum(map(len, together)))
    found = torch.zeros(2, len(samples), dtype=torch.int64)
    for rows, of_batch in parts:
        found[:, rows] = of_batch.cpu()
    if distributed:
        all_reduce_data_parallel(found)  # each user was ranked by one replica, the others have zeros there
    return Ranking(*found.numpy(), len(samples) / (time.perf_counter() - started))


def _evaluate_batch(score: Callable, data: Interactions, both: tuple[Samples, ...], rows: np.ndarray, device) -> Tensor:
    """Return ranks with seen items kept and removed: int64 (2, B).

    Args:
        both: the samples as they are scored, and with their whole histories.
    """
    batches = (data.batch(samples, rows) for samples in both)
    read, seen = ([t if t is None else to_device(t, torch.device(device)) for t in batch] for batch in batches)
    return ranks_with_and_without_seen(score(*read[:2]), *seen)


def ranks_with_and_without_seen(scores: Tensor, items: Tensor, mask: Tensor | None, targets: Tensor) -> Tensor:
    """Return ranks with seen items kept and removed.

    Args:
        scores: float (B, I).
        items: the full histories, as in `HeLLM.forward`.
        mask: their mask.
        targets: int64 (B,).

    Returns: int64 (2, B).
    """
    removed = filter_seen(scores, items, mask, targets)
    return torch.stack([target_ranks(scores, targets), target_ranks(removed, targets)])


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
        result[first : first + block] = target_ranks(scores.scatter_(1, target[:, None], own), target).cpu().numpy()
    return result


def rank_by_popularity(data: Interactions, samples: Samples) -> Ranking:
    """The baseline that recommends everybody the most bought items of the training part."""
    popularity = torch.from_numpy(data.popularity()).float()
    return evaluate_ranking(lambda items, mask: popularity.expand(len(items), -1), data, samples, batch_size=512)
