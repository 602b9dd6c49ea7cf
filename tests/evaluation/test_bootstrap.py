"""Bootstrap intervals against resampling the users themselves."""

import numpy as np
import pytest

from utils.evaluation.bootstrap import QUANTILES, RESAMPLES, intervals, paired_difference
from utils.evaluation.metrics import ranking_metrics


def draws(rng, n):
    """Return the users of a quarter as many resamples: int (RESAMPLES / 4, n)."""
    return rng.integers(0, n, (RESAMPLES // 4, n))


@pytest.fixture
def rank():
    return np.random.default_rng(1).geometric(0.04, 400)


def test_interval_equals_that_of_resampled_users(rank):
    drawn = [ranking_metrics(rank[users]) for users in draws(np.random.default_rng(2), len(rank))]
    for name, (low, high) in intervals(rank).items():
        expected = np.quantile([values[name] for values in drawn], QUANTILES)
        width = expected[1] - expected[0]
        assert (low, high) == pytest.approx(expected, abs=0.06 * width), name
        assert low < ranking_metrics(rank)[name] < high


def test_a_metric_equal_for_all_users_has_an_interval_of_width_zero():
    assert intervals(np.full(50, 3))["NDCG@10"] == pytest.approx((0.5, 0.5))
    assert intervals(np.full(50, 999))["Recall@20"] == (0.0, 0.0)


def test_paired_difference_equals_that_of_resampled_users(rank):
    rng = np.random.default_rng(3)
    other = np.maximum(rank - rng.integers(-2, 5, len(rank)), 1)  # mostly better
    users = draws(rng, len(rank))
    differences = paired_difference(rank, other)
    resampled = [(ranking_metrics(rank[who]), ranking_metrics(other[who])) for who in users]
    for name in ("Recall@10", "NDCG@20"):
        found = differences[name]
        drawn = [second[name] - first[name] for first, second in resampled]
        expected = np.quantile(drawn, QUANTILES)
        assert found.value == pytest.approx(ranking_metrics(other)[name] - ranking_metrics(rank)[name])
        assert (found.low, found.high) == pytest.approx(expected, abs=0.06 * (expected[1] - expected[0]))
        assert found.p == pytest.approx(2 * np.mean(np.array(drawn) <= 0), abs=0.01)


def test_pairing_narrows_the_interval_of_correlated_runs(rank):
    shuffled = np.random.default_rng(4).permutation(rank + 1)
    same, apart = paired_difference(rank, rank + 1)["NDCG@10"], paired_difference(rank, shuffled)["NDCG@10"]
    assert same.value == pytest.approx(apart.value)
    assert same.high - same.low < 0.5 * (apart.high - apart.low)


def test_a_run_does_not_differ_from_itself(rank):
    for found in paired_difference(rank, rank).values():
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="400 and 399 users"):
        paired_difference(rank, rank[1:])
