"""The metrics of one relevant item per user."""

from dataclasses import dataclass

import numpy as np

CUTOFFS = (5, 10, 20)
HEADLINE_METRICS = ("Recall@10", "NDCG@10", "Recall@20", "NDCG@20")  # the metrics that logs and tables show


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


@dataclass
class Ranking:
    """The rank of every user's target, in the order of the samples, and how fast they were scored."""

    seen_kept: np.ndarray  # int64 (N,), among all items: the published protocol
    seen_removed: np.ndarray  # int64 (N,), among items that the user has not had before
    users_per_s: float
    later_day: np.ndarray | None = None  # bool (N,), whether the target falls on a later day than the item before it

    def by_test(self) -> dict[str, np.ndarray]:
        """Return the ranks behind each metric of a test, by its name in a record: int64 (n,).

        By day only where days are known, and where some users' targets fall on a later, or on the same day.
        """
        groups = {"": np.ones(len(self.seen_kept), dtype=bool)}
        if self.later_day is not None:
            groups |= {"_later_day": self.later_day, "_same_day": ~self.later_day}
        ranks = {}
        for group, users in groups.items():
            if users.any():
                ranks[f"test{group}"] = self.seen_kept[users]
                ranks[f"test{group}_unseen"] = self.seen_removed[users]
        return ranks

    def test_metrics(self) -> dict[str, dict[str, float]]:
        """Return the metrics of a test by their name in a record, such as `test` and `test_later_day_unseen`."""
        return {name: ranking_metrics(ranks) for name, ranks in self.by_test().items()}

    def validation_metrics(self) -> dict[str, dict[str, float]]:
        """Return the metrics of a validation by their name in a record, `val` and `val_unseen`."""
        return {"val": ranking_metrics(self.seen_kept), "val_unseen": ranking_metrics(self.seen_removed)}


def format_metric(values: dict[str, float], name: str) -> str:
    """Return a metric with four decimals, "" where `values` lacks it, as files of earlier versions may."""
    return f"{values[name]:.4f}" if name in values else ""


def format_mean(values: list[float]) -> str:
    """Return the mean with four decimals and, of two values or more, ± their sample standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}" if values else ""


def format_headline_metrics(values: dict[str, float]) -> str:
    """Return the headline metrics that `values` has as one line."""
    return "  ".join(f"{name} {values[name]:.4f}" for name in HEADLINE_METRICS if name in values)
