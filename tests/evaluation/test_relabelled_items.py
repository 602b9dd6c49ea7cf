"""No model reads an item's id as a number: with items relabelled in data, tables and weights, all ranks stay the same.

Public files have the items of one day in ascending order of id, so a model that saw ids as numbers would win by them.
"""

import numpy as np
import pytest
import torch

from llama.HeLLM import HeLLM
from preprocess.pretraining.hypergraph import interaction_matrix, item_incidence
from preprocess.pretraining.mmhcl import MMHCL, CollaborativeEncoder
from preprocess.pretraining.sasrec import SASRec
from preprocess.pretraining.sequence_settings import SequenceSettings
from tests.support.small_model import N_ITEMS, small_args, tables, wake
from utils.data.batches import collate
from utils.data.interactions import Interactions
from utils.evaluation.ranking import evaluate_ranking, rank_by_product

N_USERS = 25
NEW_ID = np.random.default_rng(5).permutation(N_ITEMS)
OLD_ID = np.argsort(NEW_ID)


@pytest.fixture
def pair(tmp_path):
    """Write interactions, and the same with relabelled items; return both."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, N_ITEMS, rng.integers(5, 12)) for _ in range(N_USERS)]
    rows[0][0], rows[1][0] = N_ITEMS - 1, OLD_ID[-1]  # the largest id occurs in both
    data = []
    for name, new_id in (("one", np.arange(N_ITEMS)), ("other", NEW_ID)):
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(f"{user} {' '.join(map(str, new_id[row]))}\n" for user, row in enumerate(rows)))
        data.append(Interactions(path, 50))
    return data


def relabelled(table):
    """Return a table, with or without a padding row, whose rows are in the order of the new ids."""
    if len(table) not in (N_ITEMS, N_ITEMS + 1):
        return table
    n_padding = len(table) - N_ITEMS
    return torch.cat([table[:n_padding], table[n_padding:][torch.from_numpy(OLD_ID)]])


def relabelled_weights(model):
    return {name: relabelled(tensor) if tensor.ndim else tensor for name, tensor in model.state_dict().items()}


def assert_same_scores_and_ranks(one, other, data, relabelled_data, padding="left"):
    split, relabelled_split = data.test(), relabelled_data.test()
    rows = np.arange(len(split))
    batch, new = (collate(d, s, rows, padding) for d, s in ((data, split), (relabelled_data, relabelled_split)))
    assert not torch.equal(batch.items, new.items)
    with torch.no_grad():
        scores, new_scores = one(batch.items, batch.mask), other(new.items, new.mask)
    assert scores.std(1).min() > 1e-3
    torch.testing.assert_close(new_scores[:, torch.from_numpy(NEW_ID)], scores, rtol=1e-5, atol=1e-6)
    ranking = evaluate_ranking(one, data, split, 10, padding=padding)
    new_ranking = evaluate_ranking(other, relabelled_data, relabelled_split, 10, padding=padding)
    np.testing.assert_array_equal(new_ranking.seen_kept, ranking.seen_kept)
    np.testing.assert_array_equal(new_ranking.seen_removed, ranking.seen_removed)


@pytest.mark.parametrize("objective", ["prefix", "causal"])
@pytest.mark.parametrize("more", [{}, {"item_ids": True, "train_score": True}, {"tie_score": True}])
def test_hellm_scores_relabelled_items_alike(pair, objective, more):
    args = small_args(objective=objective, **more)
    prompt = [torch.tensor(ids, dtype=torch.int64) for ids in (((1, 5), (9,)) if objective == "prefix" else ((), ()))]
    torch.manual_seed(1)
    one = wake(HeLLM(args, *tables(), *prompt)).eval()
    other = HeLLM(args, *map(relabelled, tables()), *prompt).eval()
    other.load_state_dict(relabelled_weights(one))
    assert_same_scores_and_ranks(one, other, *pair, padding=one.padding)
    losses = []
    for model, data in zip((one, other), pair, strict=True):
        samples = data.training_samples(objective)
        losses.append(model.loss(*collate(data, samples, np.arange(len(samples)), model.padding)))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)


def test_sasrec_scores_relabelled_items_alike(pair):
    settings = SequenceSettings(width=6, hidden=8, max_len=50)
    one, other = (SASRec(N_ITEMS, settings).eval() for _ in range(2))
    with torch.no_grad():
        one.item_embedding.weight[1:].normal_()
    other.load_state_dict(relabelled_weights(one))
    assert_same_scores_and_ranks(one, other, *pair, padding="right")


@pytest.mark.parametrize("cf_model", ["LightGCN", "NGCF"])
def test_mmhcl_embeds_relabelled_items_alike(pair, cf_model):
    features = torch.randn(N_ITEMS, 7, generator=torch.Generator().manual_seed(3))
    models = []
    for data, table in zip(pair, (features, relabelled(features)), strict=True):
        R = interaction_matrix(*data.training_pairs(), (N_USERS, N_ITEMS))
        cf = CollaborativeEncoder(cf_model, R, 8, 2)
        models.append((MMHCL(cf, R, item_incidence({"text": table}, 4), 2, 2).eval(), R))
    one, other = (model for model, _ in models)
    other.load_state_dict(relabelled_weights(one))
    with torch.no_grad():
        out, new = one(), other()
    torch.testing.assert_close(new.users, out.users, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(new.items[torch.from_numpy(NEW_ID)], out.items, rtol=1e-5, atol=1e-6)
    ranks = []
    for data, embeddings, (_, R) in zip(pair, (out, new), models, strict=True):
        test = data.test()
        ranks.append(rank_by_product(embeddings.users, embeddings.items, R, test.user, data.targets(test)))
    np.testing.assert_array_equal(*ranks)
