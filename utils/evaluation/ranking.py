"""Rank all items for every user of a split."""

import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from llama.parallel import all_reduce_data_parallel, dp_rank, dp_size
from utils.cli.progress import ProgressBar, track
from utils.data.batches import Padding, collate, scoring_batches, to_device
from utils.data.interactions import Interactions, Samples
from utils.evaluation.metrics import Ranking
from utils.evaluation.target_ranks import ranks_with_and_without_seen
from utils.runtime.processes import is_main


@torch.no_grad()
def evaluate_ranking(
    score: Callable[[Tensor, Tensor | None], Tensor],
    data: Interactions,
    samples: Samples,
    batch_size: int,
    device: torch.device | str = "cpu",
    padding: Padding = "left",
    check_signals: Callable[[], None] = lambda: None,
    distributed: bool = False,
) -> Ranking:
    """Rank the target of every sample among all items.

    Args:
        score: a model in evaluation mode, (items, mask) as in `Batch` to float (B, I).
        data: interactions that the samples index.
        samples: the split to rank.
        batch_size: users per forward pass, at most.
        device: where the model scores.
        padding: the side on which the model's batches are padded.
        check_signals: called before each batch; may raise to stop.
        distributed: each replica of the model scores every n-th batch; all processes must call, and all get all
            ranks. They call `check_signals` together.
    """
    started = time.perf_counter()
    batches = list(scoring_batches(samples.length, batch_size))
    replica, n_replicas = (dp_rank(), dp_size()) if distributed else (0, 1)
    evaluated = []
    with ProgressBar("ranking", len(samples), "users", is_main()) as bar:
        for first in range(0, len(batches), n_replicas):
            check_signals()
            round_batches = batches[first : first + n_replicas]  # one for each replica; the last round may be short
            if replica < len(round_batches):
                rows = round_batches[replica]
                batch = collate(data, samples, rows, padding).to(device)
                seen = to_device(torch.from_numpy(data.seen_items(samples, rows)), device)
                scores = score(batch.items, batch.mask)
                evaluated.append((rows, ranks_with_and_without_seen(scores, seen, batch.targets)))
            bar.update(sum(map(len, round_batches)))
    # Read back after the last batch, so that a GPU never waits in between
    ranks = torch.zeros(2, len(samples), dtype=torch.int64)
    for rows, batch_ranks in evaluated:
        ranks[:, torch.from_numpy(rows)] = batch_ranks.cpu()
    if distributed:
        all_reduce_data_parallel(ranks)  # each user was ranked by one replica; the others have zeros there
    seen_kept, seen_removed = ranks.numpy()
    users_per_s = len(samples) / (time.perf_counter() - started)
    return Ranking(seen_kept, seen_removed, users_per_s, data.is_later_day(samples))


@torch.no_grad()
def rank_by_product(
    users: Tensor, items: Tensor, seen: sp.csr_matrix, user: np.ndarray, targets: np.ndarray, block: int = 256
) -> np.ndarray:
    """Rank each target by dot product among all items, and among those that its user has not seen.

    Args:
        users: float (U, d).
        items: float (I, d).
        seen: binary (U, I), without stored zeros; a target counts as not seen.
        user: int64 (N,), the user of each target.
        targets: int64 (N,).
        block: users at a time.

    Returns:
        int64 (2, N), 1 the best: with what the user has seen, and without.
    """
    ranks = []
    starts = range(0, len(user), block)
    for first in track(starts, "ranking", "blocks of users", len(starts), is_main()):
        rows = user[first : first + block]
        seen_of_block = seen[rows]
        row = np.repeat(np.arange(len(rows)), np.diff(seen_of_block.indptr))
        pairs = to_device(torch.from_numpy(np.stack([row, seen_of_block.indices])), items.device)
        target = to_device(torch.from_numpy(targets[first : first + block]), items.device)
        scores = users[to_device(torch.from_numpy(rows), users.device)] @ items.T
        ranks.append(ranks_with_and_without_seen(scores, pairs, target))
    return torch.cat(ranks, 1).cpu().numpy()


def rank_by_popularity(data: Interactions, samples: Samples) -> Ranking:
    """Rank by how often an item occurs in the training interactions, the same for all users."""
    popularity = torch.from_numpy(data.popularity()).float()
    return evaluate_ranking(lambda items, mask: popularity.expand(len(items), -1), data, samples, batch_size=512)
