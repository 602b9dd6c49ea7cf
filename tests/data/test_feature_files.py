"""Feature matrices reduced to few columns, and which files they come from."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from utils.data.features import choose_features, load_reduced_features, reduce_features


def features(n_items=60, n_words=40):
    """Return features of a falling spectrum; a row of zeros among them."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(n_items, n_words)) @ np.diag(0.8 ** np.arange(n_words)) @ rng.normal(size=(n_words,) * 2)
    matrix[7] = 0
    return matrix.astype(np.float32)


@pytest.mark.parametrize("as_given", [torch.from_numpy, sp.csr_matrix], ids=["dense", "sparse"])
def test_reduced_features_are_the_best_approximation_of_cosines(as_given):
    matrix = features()
    reduced = reduce_features(as_given(matrix), 9)
    assert (reduced.shape, reduced.dtype) == ((60, 9), torch.float32)
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    left, strength, right = np.linalg.svd(unit)
    best = (left[:, :9] * strength[:9]) @ right[:9]
    torch.testing.assert_close(reduced @ reduced.T, torch.from_numpy(best @ best.T).float(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(reduced.norm(dim=0), strength[:9], rtol=1e-4)
    assert not reduced[7].any()
    assert reduced.equal(reduce_features(as_given(matrix), 9))


@pytest.mark.parametrize("as_given", [torch.from_numpy, sp.csr_matrix], ids=["dense", "sparse"])
def test_features_of_few_columns_are_scaled_only(as_given):
    matrix = features(n_words=5)
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(reduce_features(as_given(matrix), 5), unit, atol=1e-6)


def test_columns_beyond_the_rank_are_zero_and_no_rounding_errors():
    reduced = reduce_features(torch.from_numpy(features(n_words=3) @ features(40, 3).T), 8)
    assert reduced.any(0).tolist() == [True] * 3 + [False] * 5


def test_modalities_are_side_by_side_and_a_missing_one_is_named(tmp_path):
    np.save(tmp_path / "text_feat.npy", features())
    torch.save(torch.from_numpy(features(n_words=5)), tmp_path / "image_feat.pt")
    chosen = choose_features(tmp_path, (), "")
    assert list(chosen) == ["image", "text"]
    assert load_reduced_features(chosen.values(), 60, 9).shape == (60, 5 + 9)
    assert list(choose_features(tmp_path, ("text",), "")) == ["text"]
    with pytest.raises(FileNotFoundError, match=r"no words_feat.npy, .npz or .pt; make one by .* or do without"):
        choose_features(tmp_path, ("text", "words"), "do without")
    assert load_reduced_features([], 60, 9).shape == (60, 0)
