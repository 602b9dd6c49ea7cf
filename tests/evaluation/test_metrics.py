"""Ranks and metrics against values by hand, by brute force and of other libraries."""

import math

import numpy as np
import pytest
import torch

from tests.support.small_data import write_dataset
from utils.data.interactions import Interactions
from utils.evaluation.metrics import ranking_metrics
from utils.evaluation.ranking import evaluate_ranking, rank_by_popularity
from utils.evaluation.target_ranks import ranks_with_and_without_seen, target_ranks


def test_ranks_break_ties_by_item_id():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1]])
    assert [int(target_ranks(scores, torch.tensor([i]))) for i in range(5)] == [2, 1, 3, 4, 5]


def test_a_nan_score_is_never_a_hit():
    scores = torch.tensor([[0.1, torch.nan, 0.3], [torch.nan] * 3])
    assert target_ranks(scores, torch.tensor([1, 0])).tolist() == [4, 4]


def test_another_items_nan_score_ranks_before_the_target():
    scores = torch.tensor([[0.1, torch.nan, 0.3]])
    assert [int(target_ranks(scores, torch.tensor([target]))) for target in (0, 2)] == [3, 2]


def test_ranks_equal_sorting():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 20, (50, 30), generator=generator).float()  # many ties
    targets = torch.randint(0, 30, (50,), generator=generator)
    order = [sorted(range(30), key=lambda i, row=row: (-row[i], i)) for row in scores.tolist()]
    assert target_ranks(scores, targets).tolist() == [
        o.index(t) + 1 for o, t in zip(order, targets.tolist(), strict=True)
    ]


def test_metrics_by_hand():
    values = ranking_metrics(np.array([1, 4, 11, 300]))
    assert values["Recall@5"] == 0.5
    assert values["Recall@20"] == 0.75
    assert values["Precision@10"] == pytest.approx(0.05)
    assert values["MRR@10"] == values["MAP@10"] == pytest.approx((1 + 1 / 4) / 4)
    assert values["NDCG@5"] == pytest.approx((1 + 1 / math.log2(5)) / 4)
    assert values["NDCG@20"] == pytest.approx((1 + 1 / math.log2(5) + 1 / math.log2(12)) / 4)
    assert len(values) == 15


def random_users(n_users=1000, n_items=200):
    """Return our metrics of users with untied scores and one target each, and both as the libraries take them."""
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(n_items), (n_users, 1)), axis=1)
    targets = rng.integers(0, n_items, n_users)
    ours = ranking_metrics(target_ranks(torch.from_numpy(scores), torch.from_numpy(targets)).numpy())
    wanted = {str(user): {str(item): 1} for user, item in enumerate(targets)}
    given = {str(user): {str(item): float(s) for item, s in enumerate(row)} for user, row in enumerate(scores)}
    return ours, wanted, given


def test_metrics_equal_trec_eval():
    library = pytest.importorskip("pytrec_eval", reason="the package pytrec_eval-terrier is not installed")
    ours, wanted, given = random_users()
    theirs = {}
    for k in (5, 10, 20):
        top = {user: dict(sorted(row.items(), key=lambda pair: -pair[1])[:k]) for user, row in given.items()}
        names = {"P": "Precision", "recall": "Recall", "map_cut": "MAP", "ndcg_cut": "NDCG"}
        values = library.RelevanceEvaluator(wanted, {*(f"{name}.{k}" for name in names), "recip_rank"}).evaluate(top)
        for name, title in {**{f"{name}_{k}": title for name, title in names.items()}, "recip_rank": "MRR"}.items():
            theirs[f"{title}@{k}"] = np.mean([of_user[name] for of_user in values.values()])
    assert len(theirs) == 15
    assert ours == pytest.approx(theirs, rel=0, abs=1e-9)


def test_metrics_equal_ranx():
    library = pytest.importorskip("ranx", reason="ranx is not installed; it compiles for a minute at its first use")
    ours, wanted, given = random_users()
    theirs = library.evaluate(library.Qrels(wanted), library.Run(given), [name.lower() for name in ours])
    assert {name.lower(): value for name, value in ours.items()} == pytest.approx(theirs, rel=0, abs=1e-9)


def position_in_order(scores, target):
    """Return the rank of one user's target: how many items stand before it, by the definition, plus one."""
    own = scores[target]
    before = [not score <= own or (score == own and item < target) for item, score in enumerate(scores)]
    return 1 + sum(before)


def reference_ranks(scores, seen, targets):
    """Return both ranks of each row by the definition: what was seen scores −∞, the target excepted."""
    filtered = scores.tolist()
    for row, item in seen.T.tolist():
        if item != targets[row]:
            filtered[row][item] = -math.inf
    return [
        [position_in_order(row, target) for row, target in zip(rows, targets.tolist(), strict=True)]
        for rows in (scores.tolist(), filtered)
    ]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("at_once", [1, 60, 2**20])
def test_ranks_with_and_without_seen_follow_the_definition(seed, at_once, monkeypatch):
    """Ties, NaN and both infinities among the scores; pairs that repeat, in any order, and targets among them."""
    monkeypatch.setattr("utils.evaluation.target_ranks.RANKED_AT_ONCE", at_once)
    monkeypatch.setattr("utils.evaluation.target_ranks.GROUP", 4)
    rng = np.random.default_rng(seed)
    n_users, n_items = rng.integers(1, 30, 2)
    values = np.array([-math.inf, -1, -0.0, 0.0, 0.5, 2, math.inf, math.nan])
    scores = torch.from_numpy(rng.choice(values, (n_users, n_items), p=rng.dirichlet(np.ones(len(values)))))
    targets = torch.from_numpy(rng.integers(0, n_items, n_users))
    n_seen = rng.integers(0, 2 * n_items)
    seen = torch.from_numpy(np.stack([rng.integers(0, n_users, n_seen), rng.integers(0, n_items, n_seen)]))
    before = scores.clone()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = ranks_with_and_without_seen(scores.to(dtype), seen, targets)
        assert found.dtype == torch.int64
        assert found.tolist() == reference_ranks(scores, seen, targets)
    assert torch.equal(scores.nan_to_num(7), before.nan_to_num(7))


def test_ranks_of_more_items_than_a_group_has():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 40, (6, 1000), generator=generator).float()
    targets = torch.tensor([0, 127, 128, 129, 998, 999])
    seen = torch.stack([torch.randint(0, n, (300,), generator=generator) for n in (6, 1000)])
    assert ranks_with_and_without_seen(scores, seen, targets).tolist() == reference_ranks(scores, seen, targets)


def test_scores_that_all_users_share_need_no_copy():
    scores = torch.tensor([0.5, 2.0, 1.0, 2.0]).expand(3, 4)
    seen = torch.tensor([[0, 2, 2], [1, 3, 3]])
    assert ranks_with_and_without_seen(scores, seen, torch.tensor([0, 3, 2])).tolist() == [[4, 2, 3], [3, 2, 2]]


def test_an_empty_batch_has_no_ranks():
    none = torch.empty(2, 0, dtype=torch.int64)
    assert ranks_with_and_without_seen(torch.empty(0, 5), none, none[0]).shape == (2, 0)


def score(items, mask):
    """Score items by the summed random weights of the history's items."""
    weights = torch.randn(40, 40, generator=torch.Generator().manual_seed(1))
    real = torch.ones(items.shape) if mask is None else mask.float()
    return (weights[items] * real[..., None]).sum(1)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_ranking_is_independent_of_batch_size_and_padding(tmp_path, padding):
    data = Interactions(write_dataset(tmp_path) / "Small.txt", 50)
    samples = data.test()
    single = evaluate_ranking(score, data, samples, 1)
    batched = evaluate_ranking(score, data, samples, 32, padding=padding)
    assert np.array_equal(single.seen_kept, batched.seen_kept)
    assert np.array_equal(single.seen_removed, batched.seen_removed)
    assert (batched.seen_removed <= batched.seen_kept).all()
    assert (batched.seen_removed < batched.seen_kept).any()


def test_items_older_than_max_len_are_filtered_too(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("0 0 1 2 3 4 5\n1 6 2 1\n2 5 4 0 5\n")
    data = Interactions(path, 3)
    read = []

    def by_id(items, mask):  # the lower the better
        read.append(items.tolist())
        return -torch.arange(7.0).expand(len(items), 7)

    test, validation = (evaluate_ranking(by_id, data, split, 8) for split in (data.test(), data.validation()))
    assert read == [[[3, 4], [6, 2], [4, 0]], [[3], [6], [4]]]
    assert test.seen_kept.tolist() == [6, 2, 6]
    assert test.seen_removed.tolist() == [1, 2, 4]  # the last user has had its target before
    assert validation.seen_kept.tolist() == [5, 3, 1]
    assert validation.seen_removed.tolist() == [1, 3, 1]


def test_popularity_ranks_the_most_frequent_item_first(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("0 2 1 2 1 0\n1 2 3 3 2\n2 2 2 0 1\n")
    data = Interactions(path, 50)
    assert data.popularity().tolist() == [0, 1, 5, 1]
    assert rank_by_popularity(data, data.test()).seen_kept.tolist() == [4, 1, 2]
