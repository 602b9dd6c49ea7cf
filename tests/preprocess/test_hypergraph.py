"""Hypergraph operators, losses and sampler of MMHCL, compared with dense formulas."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from preprocess.pretraining.hypergraph import (
    InteractionGraph,
    ItemHypergraph,
    UserHypergraph,
    interaction_matrix,
    item_incidence,
)
from preprocess.pretraining.mmhcl import MMHCL, BatchSampler, CollaborativeEncoder, bpr_loss, contrastive_loss
from preprocess.pretraining.neighbours import neighbour_incidence
from utils.data.features import find_features, load_features

N_USERS, N_ITEMS, D = 9, 7, 4


@pytest.fixture
def R():
    rng = np.random.default_rng(0)
    dense = rng.random((N_USERS, N_ITEMS)) < 0.4
    dense[3] = False  # a user without purchases
    dense[5], dense[:, 6] = False, False
    dense[5, 6] = True  # a user who shares no purchase with anybody
    return sp.csr_matrix(dense.astype(np.float32))


def dense_of(R):
    return torch.from_numpy(R.toarray()).double()


def inverse(values, power):
    return torch.where(values > 0, values**power, torch.zeros_like(values))


def assert_same_operator(operator, dense, width=D):
    """Compare an operator and its gradient with those of a dense matrix."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(dense.shape[1], width, generator=generator).requires_grad_()
    weight = torch.randn(dense.shape[0], width, generator=generator)
    y = operator(x)
    (y * weight).sum().backward()
    torch.testing.assert_close(y.double(), dense @ x.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), dense.T @ weight.double(), rtol=1e-5, atol=1e-6)


def test_interaction_graph_is_the_normalised_bipartite_adjacency(R):
    r = dense_of(R)
    adjacency = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    adjacency[:N_USERS, N_USERS:], adjacency[N_USERS:, :N_USERS] = r, r.T
    scale = inverse(adjacency.sum(1), -0.5)
    graph = InteractionGraph(R)
    assert_same_operator(lambda x: torch.cat(graph(x[:N_USERS], x[N_USERS:])), scale[:, None] * adjacency * scale)


def test_user_hypergraph_is_row_normalised_without_its_diagonal(R):
    shared = dense_of(R) @ dense_of(R).T
    shared.fill_diagonal_(0)
    dense = inverse(shared.sum(1), -1.0)[:, None] * shared
    assert not dense[3].any()
    assert not dense[5].any()
    torch.testing.assert_close(dense.sum(1)[[0, 1, 2]], torch.ones(3).double())
    assert_same_operator(UserHypergraph(R), dense)


def test_item_hypergraph_is_symmetric_normalised_with_its_diagonal():
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.randn(N_ITEMS, width, generator=generator) for name, width in (("image", 3), ("text", 5))}
    features["text"][2] = 0
    features["image"][2] = 0
    H = item_incidence(features, 3)
    shared = dense_of(H) @ dense_of(H).T
    scale = inverse(shared.sum(1), -0.5)
    assert_same_operator(ItemHypergraph(H), scale[:, None] * shared * scale)
    assert not shared[2].any()


@pytest.mark.parametrize("convert", [torch.Tensor.clone, sp.csr_matrix])
def test_nearest_neighbours_by_hand(convert):
    angles = torch.tensor([0.0, 10.0, 20.0, 100.0, 115.0, 250.0]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [5], [2], [1], [3], [1]])
    features = torch.cat([features, torch.zeros(1, 2)])
    expected = {0: [0, 1, 2], 1: [0, 1, 2], 2: [0, 1, 2], 3: [2, 3, 4], 4: [3, 4], 5: [5], 6: []}
    H = neighbour_incidence(convert(features), 3).toarray()
    assert {edge: np.flatnonzero(H[:, edge]).tolist() for edge in range(7)} == expected


@pytest.mark.parametrize(("convert", "block"), [(torch.Tensor.clone, "BLOCK_ROWS"), (sp.csr_matrix, "BLOCK_ELEMENTS")])
def test_nearest_neighbours_do_not_depend_on_the_block_size(convert, block, monkeypatch):
    features = convert(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))
    unblocked = neighbour_incidence(features, 4)
    monkeypatch.setattr(f"preprocess.pretraining.neighbours.{block}", 7)
    assert (unblocked != neighbour_incidence(features, 4)).nnz == 0


@pytest.mark.parametrize("convert", [torch.Tensor.clone, sp.csr_matrix])
def test_only_the_first_hyperedges_are_found_on_request(convert):
    features = convert(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))
    H = neighbour_incidence(features, 4, n_edges=20)
    assert (H[:, :20] != neighbour_incidence(features, 4)[:, :20]).nnz == 0
    assert not H[:, 20:].nnz


def test_sparse_neighbours_equal_dense_ones_without_ties():
    dense = sp.random_array((300, 40), density=0.2, dtype=np.float32, rng=np.random.default_rng(0)).toarray()
    dense -= 0.2 * (dense > 0)  # some similarities are negative
    dense[[0, 7, 299]] = 0
    features = sp.csr_matrix(dense)
    for k in (1, 5, 60, 300):
        expected = neighbour_incidence(torch.from_numpy(dense), k)
        assert (expected != neighbour_incidence(features, k)).nnz == 0


@pytest.mark.parametrize("k", [1, 2, 5, 30, 200])
def test_sparse_ties_go_to_the_item_itself_and_then_to_the_smallest_id(k):
    words = np.random.default_rng(0).integers(0, 2, (200, 4)).astype(np.float32)  # 16 different rows
    unit = words / np.maximum(np.linalg.norm(words, axis=1, keepdims=True), 1e-12)
    # Products of two of the 16 rows are equal, or differ by much more than this
    similarity = np.round(unit @ unit.T, 4)
    items = np.arange(200)
    expected = np.zeros((200, 200))
    for edge in items:
        nearest = np.lexsort((items, items != edge, -similarity[edge]))[:k]
        expected[nearest[similarity[edge, nearest] > 0], edge] = 1
    assert np.array_equal(neighbour_incidence(sp.csr_matrix(words), k).toarray(), expected)


def test_sparse_neighbours_of_a_matrix_that_claims_to_be_huge():
    features = sp.csr_matrix(([1.0, 1, 1], ([0, 1, 2], [3, 10**12, 10**12])), (4, 10**12 + 1))
    H = neighbour_incidence(features, 3).toarray()
    assert H.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_repeated_purchases_count_once():
    R = interaction_matrix(np.array([0, 0, 1, 0]), np.array([2, 2, 1, 0]), (2, 3))
    assert R.toarray().tolist() == [[1, 0, 1], [0, 1, 0]]


def dense_contrastive(z, view, tau):
    z, view = (x / x.norm(dim=1, keepdim=True) for x in (z, view))
    to_view = torch.exp(z @ view.T / tau)
    to_z = torch.exp(z @ z.T / tau)
    denominator = to_view.sum(1) + to_z.sum(1) - to_z.diagonal()
    return -torch.log(to_view.diagonal() / denominator)


N_NODES = 150  # three blocks of the smallest size, the last one not full


def pair(n=N_NODES, width=5):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, width, generator=generator).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("block", [2**24, 50])
@pytest.mark.parametrize("anchors", [None, [4, 0, 7], list(range(N_NODES))[::-1]])
def test_contrastive_loss_and_gradient(anchors, block, monkeypatch):
    monkeypatch.setattr("preprocess.pretraining.mmhcl.BLOCK_ELEMENTS", block)
    ours, theirs = pair(), [x.detach().double().requires_grad_() for x in pair()]
    rows = slice(None) if anchors is None else anchors
    expected = dense_contrastive(*theirs, 0.5)[rows].mean()
    z, view = ours
    loss = contrastive_loss(z, F.normalize(view), 0.5, anchors if anchors is None else torch.tensor(anchors))
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-5, atol=1e-6)


def test_all_anchors_equal_the_exact_loss():
    z, view = map(F.normalize, pair())
    permutation = torch.randperm(N_NODES, generator=torch.Generator().manual_seed(0))
    exact, sampled = contrastive_loss(z, view, 0.3), contrastive_loss(z, view, 0.3, permutation)
    torch.testing.assert_close(sampled, exact, rtol=1e-6, atol=0)


def test_bpr_loss_and_gradient():
    generator = torch.Generator().manual_seed(3)
    u, p, n = (torch.randn(6, D, generator=generator).double().requires_grad_() for _ in range(3))
    regs = 0.01
    expected = -torch.log(torch.sigmoid((u * p).sum(1) - (u * n).sum(1))).mean()
    expected = expected + regs * 0.5 * (u.norm() ** 2 + p.norm() ** 2 + n.norm() ** 2) / 6
    loss = bpr_loss(u, p, n, regs)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(x, (u, p, n)) for x in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_model_is_the_published_sum(R):
    torch.manual_seed(0)
    H = item_incidence({"text": torch.randn(N_ITEMS, 5)}, 2)
    model = MMHCL(CollaborativeEncoder("LightGCN", R, D, 2), R, H, user_layers=2, item_layers=1)
    out, r = model(), dense_of(R)
    scale_u, scale_i = inverse(r.sum(1), -0.5), inverse(r.sum(0), -0.5)
    a = scale_u[:, None] * r * scale_i
    u0, i0 = model.cf.user_embedding.double(), model.cf.item_embedding.double()
    users, items = (u0 + a @ i0 + a @ (a.T @ u0)) / 3, (i0 + a.T @ u0 + a.T @ (a @ i0)) / 3
    shared = r @ r.T
    shared.fill_diagonal_(0)
    shared = inverse(shared.sum(1), -1.0)[:, None] * shared
    uu = shared @ (shared @ model.uu.double())
    like = dense_of(H) @ dense_of(H).T
    ii = (inverse(like.sum(1), -0.5)[:, None] * like * inverse(like.sum(1), -0.5)) @ model.ii.double()
    uu = uu / uu.norm(dim=1, keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(out.user_view.double(), uu, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.users.double(), users + uu, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.items.double(), items + ii / ii.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)
    sum(contrastive_loss(z, v, 0.5) for z, v in ((out.users, out.user_view), (out.items, out.item_view))).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())  # the users without neighbours among them


@pytest.mark.parametrize(("kind", "trained"), [("MF", 2), ("LightGCN", 2), ("NGCF", 2 + 4 * 2)])
def test_collaborative_encoders_train_all_their_parameters(R, kind, trained):
    torch.manual_seed(0)
    cf = CollaborativeEncoder(kind, R, D, 2)
    assert len(list(cf.parameters())) == trained
    users, items = cf.eval()()
    assert (users.shape, items.shape) == ((N_USERS, D), (N_ITEMS, D))
    assert torch.equal(users, cf.user_embedding) == (kind == "MF")
    (users.sum() + items.square().sum()).backward()
    assert all(p.grad is not None for p in cf.parameters())


def test_model_without_hypergraphs_equals_its_collaborative_part(R):
    torch.manual_seed(0)
    cf = CollaborativeEncoder("LightGCN", R, D, 2)
    model = MMHCL(cf, R, None, user_layers=0, item_layers=1)
    assert len(list(model.parameters())) == 2
    out = model()
    assert (out.user_view, out.item_view) == (None, None)
    torch.testing.assert_close((out.users, out.items), cf())


def test_sampler_returns_distinct_users_with_bought_and_other_items(R):
    sampler = BatchSampler(R)
    dense = R.toarray()
    seen = set()
    for seed in range(200):
        users, bought, other = sampler.sample(np.random.default_rng(seed), 6)
        assert len(set(users)) == 6
        assert 3 not in users
        assert dense[users, bought].all()
        assert not dense[users, other].any()
        seen |= set(zip(users.tolist(), bought.tolist(), strict=True))
    assert len(seen) == R.nnz


def test_feature_files_are_found_and_validated(tmp_path):
    np.save(tmp_path / "text_feat.npy", np.eye(5, 3))
    torch.save(torch.ones(5, 2, dtype=torch.float16), tmp_path / "image_feat.pt")
    sp.save_npz(tmp_path / "words_feat.npz", sp.eye(5, 4, format="csr", dtype=np.float64))
    (tmp_path / "other.npy").write_text("")
    paths = find_features(tmp_path)
    assert [path.name for path in paths] == ["image_feat.pt", "text_feat.npy", "words_feat.npz"]
    assert [tuple(load_features(path, 5).shape) for path in paths] == [(5, 2), (5, 3), (5, 4)]
    with pytest.raises(ValueError, match=r"text_feat\.npy: 5 rows for 6 items"):
        load_features(paths[1], 6)


@pytest.mark.parametrize("formats", [("npy", "pt"), ("npy", "npz"), ("npz", "pt")])
def test_one_modality_in_two_formats_is_refused(tmp_path, formats):
    for suffix in formats:
        (tmp_path / f"text_feat.{suffix}").touch()
    with pytest.raises(ValueError, match=f"{formats[0]} and .*{formats[1]}: the same modality twice; remove one"):
        find_features(tmp_path)


def test_sparse_features_are_put_in_order(tmp_path):
    path = tmp_path / "text_feat.npz"
    content = {"format": np.array(b"csr"), "shape": np.array([3, 4]), "indptr": np.array([0, 3, 4, 5])}
    np.savez(path, **content, indices=np.array([2, 0, 2, 1, 3]), data=np.array([1.0, 2, 3, 0, 5]))
    features = load_features(path, 3)
    assert features.indices.tolist() == [0, 2, 3]
    assert features.toarray().tolist() == [[2, 0, 4, 0], [0, 0, 0, 0], [0, 0, 0, 5]]
