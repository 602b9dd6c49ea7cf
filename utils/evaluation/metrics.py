"""Ranks of the targets, and the metrics of one relevant item a user."""

import numpy as np
import torch
from torch import Tensor

CUTOFFS = (5, 10, 20)


def target_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Place of each row's target among all items, 1 the best; equal scores are placed by item id, NaN is last.

    Args:
        scores: float (B, I).
        targets: int64 (B,).

    Returns: int64 (B,); behind all items where the target's own score is NaN.
    """
    wanted = scores.gather(1, targets[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    return 1 + (~(scores <= wanted) | ((scores == wanted) & before)).sum(1)


def filter_seen(scores: Tensor, items: Tensor, mask: Tensor | None, targets: Tensor) -> Tensor:
    """Scores with each row's history at −∞, its target excepted. Shapes as in `ranks` and `HeLLM.forward`."""
    keep = items == targets[:, None]
    if mask is not None:
        keep |= ~mask
    # What must keep its score is pointed at the target, whose own score is put back afterwards.
    removed = scores.scatter(1, torch.where(keep, targets[:, None], items), -torch.inf)
    return removed.scatter(1, targets[:, None], scores.gather(1, targets[:, None]))


def ranking_metrics(rank: np.ndarray) -> dict[str, float]:
    """Precision, Recall, MRR, MAP and NDCG at 5, 10, 20, means over users with one target each.

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


def format_headline_metrics(values: dict[str, float]) -> str:
    """The four figures that logs and tables show."""
    return "  ".join(f"{name} {values[name]:.4f}" for name in ("Recall@10", "NDCG@10", "Recall@20", "NDCG@20"))
