"""How far a metric, or the difference of two runs, hangs on which users there happen to be: the bootstrap over users.

Beyond the largest cutoff one rank is as good as another, so what is drawn are not users but how many of a resample have
each rank: one multinomial draw, with the distribution of as many users drawn with replacement.
"""

from dataclasses import dataclass

import numpy as np

from utils.evaluation.metrics import CUTOFFS, ranking_metrics

RESAMPLES, SEED = 10_000, 0
QUANTILES = 0.025, 0.975  # of the resamples below the two ends of an interval: 95 % lie within
N_RANK_BINS = max(CUTOFFS) + 1  # ranks 1, 2, … and, as the last, all behind the cutoffs


@dataclass(frozen=True)
class PairedDifference:
    """A metric of a second run minus that of the first, over the same users."""

    value: float
    low: float
    high: float  # of the interval
    p: float  # two-sided: how often resamples reach the other sign, or none


def intervals(rank: np.ndarray) -> dict[str, tuple[float, float]]:
    """The 95 % interval of every metric.

    Args:
        rank: int (N,), of N users, 1 the best.
    """
    names, values = _values()
    counts = np.bincount(_rank_bins(rank), minlength=N_RANK_BINS)
    low, high = np.quantile(_resampled(counts, values), QUANTILES, axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def paired_difference(first: np.ndarray, second: np.ndarray) -> dict[str, PairedDifference]:
    """What every metric gains from the first run to the second, users being drawn with both of their ranks.

    Args:
        first, second: int (N,), ranks of the same N users in the same order.

    Raises:
        ValueError: not the same number of users.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first):,} and {len(second):,} users: only runs on the same users can be paired")
    names, values = _values()
    cells, counts = np.unique(_rank_bins(first) * N_RANK_BINS + _rank_bins(second), return_counts=True)
    gained = values[cells % N_RANK_BINS] - values[cells // N_RANK_BINS]
    drawn = _resampled(counts, gained)
    low, high = np.quantile(drawn, QUANTILES, axis=0)
    value = counts @ gained / len(first)
    reached = np.minimum((drawn <= 0).sum(0), (drawn >= 0).sum(0))
    p = np.minimum(2 * (reached + 1) / (RESAMPLES + 1), 1)
    rows = np.stack([value, low, high, p], 1).tolist()
    return {name: PairedDifference(*row) for name, row in zip(names, rows, strict=True)}


def _rank_bins(rank: np.ndarray) -> np.ndarray:
    return np.minimum(rank, N_RANK_BINS).astype(np.int64) - 1


def _values() -> tuple[list[str], np.ndarray]:
    """Names of the metrics, and what one user of each place counts in them: float (PLACES, metrics)."""
    of_place = [ranking_metrics(np.array([rank])) for rank in range(1, N_RANK_BINS + 1)]
    return list(of_place[0]), np.array([list(values.values()) for values in of_place])


def _resampled(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means of the values over each resample: counts int (C,) and values float (C, M) to float (RESAMPLES, M)."""
    n, rng = counts.sum(), np.random.default_rng(SEED)
    return rng.multinomial(n, counts / n, RESAMPLES) @ values / n
