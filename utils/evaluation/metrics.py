"""Ranks of the targets, and the metrics of one relevant item per user."""

import numpy as np
import torch
from torch import Tensor

CUTOFFS = (5, 10, 20)
HEADLINE_METRICS = ("Recall@10", "NDCG@10", "Recall@20", "NDCG@20")  # the metrics that logs and tables show


def target_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the rank of each row's target among all items, 1 the best; ties go by item id.

    A NaN counts against the target: an item with the score NaN ranks before it, and a target with the score NaN ranks
    behind all items.

    Args:
        scores: float (B, I).
        targets: int64 (B,).

    Returns:
        int64 (B,), up to I + 1 where the target's score is NaN.
    """
    target_scores = scores.gather(1, targets[:, None])
    wins_ties = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    return 1 + (~(scores <= target_scores) | ((scores == target_scores) & wins_ties)).sum(1)


def filter_seen(scores: Tensor, seen: Tensor, targets: Tensor) -> Tensor:
    """Return a copy of scores in which what a row's user has seen is −∞, the target excepted.

    Args:
        scores: float (B, I).
        seen: int64 (2, n), pairs of row and item, in any order and number.
        targets: int64 (B,).
    """
    row, item = seen
    filtered = scores.flatten().scatter(0, row * scores.shape[1] + item, -torch.inf).view_as(scores)
    targets = targets[:, None]
    return filtered.scatter_(1, targets, scores.gather(1, targets))


def ranking_metrics(rank: np.ndarray) -> dict[str, float]:
    """Return Precision, Recall, MRR, MAP and NDCG at 5, 10 and 20, means over users with one target each.

    Args:
        rank: int (N,), 1 the best.
    """
    result = {}
    for k in CUTOFFS:
        hit = rank <= k
        reciprocal = np.where(hit, 1 / rank, 0.0).mean()
        result |= {
            f"Precision@{k}": hit.mean() / k,
            f"Recall@{k}": hit.mean(),
            f"MRR@{k}": reciprocal,
            f"MAP@{k}": reciprocal,
            f"NDCG@{k}": np.where(hit, 1 / np.log2(rank + 1), 0.0).mean(),
        }
    return {name: float(value) for name, value in result.items()}


def format_metric(values: dict[str, float], name: str) -> str:
    """Return a metric with four decimals, "" where `values` lacks it, as files of earlier versions may."""
    return f"{values[name]:.4f}" if name in values else ""


def format_headline_metrics(values: dict[str, float]) -> str:
    """Return the headline metrics that `values` has as one line."""
    return "  ".join(f"{name} {values[name]:.4f}" for name in HEADLINE_METRICS if name in values)
