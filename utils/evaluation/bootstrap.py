"""The bootstrap over users: how much a metric, or the difference of two runs, varies with the users it is taken over.

A resample draws as many users as there are, with replacement. Every metric looks at ranks up to the largest cutoff
only, so a user counts by the bin of its rank: 1, 2, … or beyond. How many users of a resample fall into each bin
follows a multinomial distribution with the observed shares. Drawing these 21 counts is therefore drawing the users,
exactly, at a cost that does not depend on their number. For a difference, a bin is a pair of ranks of the same user.
"""

from dataclasses import dataclass

import numpy as np

from utils.evaluation.metrics import CUTOFFS, ranking_metrics

RESAMPLES = 10_000
SEED = 0
QUANTILES = 0.025, 0.975  # of the resamples: 95 % lie between
N_RANK_BINS = max(CUTOFFS) + 1  # ranks 1, 2, … up to the largest cutoff, and all beyond


@dataclass(frozen=True)
class PairedDifference:
    """A metric of a second run minus that of the first, over the same users."""

    value: float
    low: float  # the 95 % interval's ends
    high: float
    p: float  # two-sided: how often resamples have the opposite sign, or are 0


def intervals(rank: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of every metric.

    Args:
        rank: int (N,), of N users, 1 the best.
    """
    names, bin_values = _metrics_per_bin()
    counts = np.bincount(_rank_bins(rank), minlength=N_RANK_BINS)
    low, high = np.quantile(_resampled_means(counts, bin_values), QUANTILES, axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def paired_difference(first: np.ndarray, second: np.ndarray) -> dict[str, PairedDifference]:
    """Return every metric of a second run minus that of a first; a resample draws users with both of their ranks.

    Args:
        first: int (N,), ranks of N users.
        second: int (N,), ranks of the same users in the same order.

    Raises:
        ValueError: not the same number of users.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first):,} and {len(second):,} users: only runs on the same users can be paired")
    names, bin_values = _metrics_per_bin()
    pairs, counts = np.unique(_rank_bins(first) * N_RANK_BINS + _rank_bins(second), return_counts=True)
    gain = bin_values[pairs % N_RANK_BINS] - bin_values[pairs // N_RANK_BINS]
    resampled = _resampled_means(counts, gain)
    low, high = np.quantile(resampled, QUANTILES, axis=0)
    value = counts @ gain / len(first)
    opposite_sign = np.minimum((resampled <= 0).sum(0), (resampled >= 0).sum(0))
    p = np.minimum(2 * (opposite_sign + 1) / (RESAMPLES + 1), 1)
    rows = np.stack([value, low, high, p], 1).tolist()
    return {name: PairedDifference(*row) for name, row in zip(names, rows, strict=True)}


def _rank_bins(rank: np.ndarray) -> np.ndarray:
    """Return the bin of each rank, from 0: int64 (N,)."""
    return np.minimum(rank, N_RANK_BINS).astype(np.int64) - 1


def _metrics_per_bin() -> tuple[list[str], np.ndarray]:
    """Return the metrics' names, and their values for one user of each bin: float (N_RANK_BINS, metrics)."""
    per_bin = [ranking_metrics(np.array([rank])) for rank in range(1, N_RANK_BINS + 1)]
    return list(per_bin[0]), np.array([list(values.values()) for values in per_bin])


def _resampled_means(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return means over each resample: counts int (C,) and values float (C, M) to float (RESAMPLES, M)."""
    n_users = counts.sum()
    rng = np.random.default_rng(SEED)
    return rng.multinomial(n_users, counts / n_users, RESAMPLES) @ values / n_users
