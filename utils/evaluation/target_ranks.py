"""Ranks of the targets among the scores of all items."""

import torch
from torch import Tensor

RANKED_AT_ONCE = 2**20  # scores compared at once: few enough for a processor's cache
GROUP = 128  # neighbouring items whose flags are added up together


def target_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the rank of each row's target among all items, 1 the best; ties go by item id.

    A NaN counts against the target: an item with the score NaN ranks before it, and a target with the score NaN ranks
    behind all items. Rows are ranked in blocks, and nothing is read back from the device.

    Args:
        scores: float (B, I).
        targets: int64 (B,).

    Returns:
        int64 (B,), up to I + 1 where the target's score is NaN.
    """
    n_items = scores.shape[1]
    n_rows = min(max(RANKED_AT_ONCE // n_items, 1), len(scores))
    # Flags are floats, because comparing into floats and adding them up is several times as fast as with booleans.
    # They are added up in groups of neighbouring items, which is exact.
    groups = torch.zeros(n_rows, -(-n_items // GROUP), GROUP, device=scores.device)
    group_number = torch.arange(groups.shape[1], device=scores.device)
    place_in_group = torch.arange(GROUP, device=scores.device)
    ranks = []
    for block, target in zip(scores.split(n_rows), targets[:, None].split(n_rows), strict=True):
        groups = groups[: len(block)]
        flags = groups.flatten(1)[:, :n_items]
        target_scores = block.gather(1, target)
        torch.le(block, target_scores, out=flags)
        behind = groups.sum(2).sum(1, dtype=torch.int64)  # and the target
        torch.eq(block, target_scores, out=flags)
        ties_by_group = groups.sum(2) * (group_number < target // GROUP)
        group_of_target = groups.gather(1, (target // GROUP)[..., None].expand(-1, 1, GROUP))[:, 0]
        ties_within = group_of_target * (place_in_group < target % GROUP)
        ties_before = ties_by_group.sum(1, dtype=torch.int64) + ties_within.sum(1, dtype=torch.int64)
        ranks.append(1 + n_items - behind + ties_before)
    return torch.cat(ranks)


def ranks_with_and_without_seen(scores: Tensor, seen: Tensor, targets: Tensor) -> Tensor:
    """Return the targets' ranks among all items, and among those that the user has not had before.

    The second rank is that of scores in which what the user has seen is −∞, the target excepted: the first one less
    the seen items that no longer rank before the target.

    Args:
        scores: float (B, I).
        seen: int64 (2, n), pairs of row and item, in any order; may repeat, and may have targets among them.
        targets: int64 (B,).

    Returns:
        int64 (2, B), as `target_ranks` counts.
    """
    n_items = scores.shape[1]
    pair = (seen[0] * n_items + seen[1]).sort().values
    is_repeated = torch.zeros_like(pair, dtype=torch.bool)
    is_repeated[1:] = pair[1:] == pair[:-1]
    row = pair // n_items
    item = pair % n_items
    target = targets[row]
    seen_scores = scores[row, item]
    target_scores = scores[row, target]
    wins_tie = item < target
    is_before = ~(seen_scores <= target_scores) | ((seen_scores == target_scores) & wins_tie)
    # −∞ ranks before a NaN, and by its id before another −∞
    stays_before = target_scores.isnan() | (target_scores.isneginf() & wins_tie)
    leaves = is_before & ~stays_before & (item != target) & ~is_repeated
    seen_kept = target_ranks(scores, targets)
    return torch.stack([seen_kept, seen_kept.index_add(0, row, leaves.long(), alpha=-1)])
