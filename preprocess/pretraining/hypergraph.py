"""Apply the user-to-user and item-to-item hypergraphs as linear operators that are never multiplied out.

Costs grow with the number of interactions and neighbours, not with users² or items².
"""

import warnings

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preprocess.pretraining.neighbours import neighbour_incidence

# ---------------------------------------------------------------- operators


class _ConstantSpMM(torch.autograd.Function):
    """Multiply a constant sparse matrix by x; the backward pass uses its stored transpose."""

    @staticmethod
    def forward(ctx, matrix: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
        ctx.transpose = transpose
        return _spmm(matrix, x)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        return None, None, _spmm(ctx.transpose, grad_output.contiguous())


def _spmm(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply a CSR tensor (n, m) by x (m, d)."""
    columns = matrix.col_indices()
    offsets = matrix.crow_indices()
    # A sum over each row's columns: three times as fast on a CPU as torch's own product with a CSR tensor
    return F.embedding_bag(
        columns, x, offsets, mode="sum", per_sample_weights=matrix.values(), include_last_offset=True
    )


class SparseMatrix(nn.Module):
    """A constant sparse matrix in float32, stored with its transpose, both as CSR tensors.

    Args:
        matrix: any scipy sparse matrix (n, m).
    """

    def __init__(self, matrix: sp.spmatrix) -> None:
        super().__init__()
        self.register_buffer("matrix_csr", _to_torch_csr(matrix), persistent=False)
        self.register_buffer("transpose_csr", _to_torch_csr(matrix.T), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return matrix @ x: (m, d) to (n, d)."""
        return _ConstantSpMM.apply(self.matrix_csr, self.transpose_csr, x)

    def apply_transpose(self, x: Tensor) -> Tensor:
        """Return matrixᵀ @ x: (n, d) to (m, d)."""
        return _ConstantSpMM.apply(self.transpose_csr, self.matrix_csr, x)


def _to_torch_csr(matrix: sp.spmatrix) -> Tensor:
    csr = sp.csr_matrix(matrix, dtype=np.float32)
    csr.sort_indices()
    offsets = torch.from_numpy(csr.indptr.astype(np.int64))
    columns = torch.from_numpy(csr.indices.astype(np.int64))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch calls the format a beta
        return torch.sparse_csr_tensor(offsets, columns, torch.from_numpy(csr.data), csr.shape, check_invariants=False)


class InteractionGraph(nn.Module):
    """One step of LightGCN: the bipartite graph of R with symmetric normalisation, D_u^-½ R D_i^-½ and its transpose.

    Args:
        R: binary (U, I), who bought what.
    """

    def __init__(self, R: sp.csr_matrix) -> None:
        super().__init__()
        user_scale = _safe_power(_sum(R, 1), -0.5)
        item_scale = _safe_power(_sum(R, 0), -0.5)
        self.normalised = SparseMatrix(sp.diags(user_scale) @ R @ sp.diags(item_scale))

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Sum each side over its neighbours: users (U, d) and items (I, d), both to the same shapes."""
        return self.normalised(items), self.normalised.apply_transpose(users)


class UserHypergraph(nn.Module):
    """Users joined by shared purchases: row-normalised R Rᵀ without its diagonal.

    A user who shares no purchase with anybody has a row of zeros.

    Args:
        R: binary (U, I), who bought what.
    """

    def __init__(self, R: sp.csr_matrix) -> None:
        super().__init__()
        self.incidence = SparseMatrix(R)
        diagonal = _sum(R, 1)  # that of R Rᵀ, because R is binary: a user's sum of squares is its sum
        degree = _row_sums_of_gram(R) - diagonal
        self.register_buffer("diagonal", _column(diagonal), persistent=False)
        self.register_buffer("scale", _column(_safe_power(degree, -1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator: (U, d) to (U, d)."""
        return self.scale * (self.incidence(self.incidence.apply_transpose(x)) - self.diagonal * x)


class ItemHypergraph(nn.Module):
    """Items joined by similar features: symmetric-normalised H Hᵀ, its diagonal kept.

    Args:
        H: binary (I, E), items by hyperedges; an item in no hyperedge has a row of zeros.
    """

    def __init__(self, H: sp.csr_matrix) -> None:
        super().__init__()
        scale = _safe_power(_row_sums_of_gram(H), -0.5)
        self.incidence = SparseMatrix(sp.diags(scale) @ H)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator: (I, d) to (I, d)."""
        return self.incidence(self.incidence.apply_transpose(x))


def _sum(matrix: sp.csr_matrix, axis: int) -> np.ndarray:
    return np.asarray(matrix.sum(axis)).ravel()


def _row_sums_of_gram(matrix: sp.csr_matrix) -> np.ndarray:
    """Return the row sums of M Mᵀ without computing it."""
    return np.asarray(matrix @ (matrix.T @ np.ones(matrix.shape[0]))).ravel()


def _safe_power(values: np.ndarray, exponent: float) -> np.ndarray:
    """Return values ** exponent, 0 where a value is not positive."""
    return np.where(values > 0, np.maximum(values, 1e-12) ** exponent, 0.0)


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()[:, None]


# ---------------------------------------------------------------- incidence matrices


def interaction_matrix(users: np.ndarray, items: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """Return binary R (U, I) from (user, item) pairs, a repeated purchase counted once."""
    R = sp.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape)
    R.data[:] = 1
    R.sort_indices()
    return R


def item_incidence(features: dict[str, Tensor | sp.csr_matrix], k: int) -> sp.csr_matrix:
    """Return H = [H_image | H_text | …] (I, M · I) of M modalities.

    Args:
        features: float32 (I, width) per modality, dense or sparse.
        k: items per hyperedge.

    Raises:
        ValueError: no modality, or k beyond the number of items.
    """
    if not features:
        raise ValueError("no *_feat.npy, .npz or .pt: the item hypergraph needs one, or --item_loss_ratio 0")
    n_items = next(iter(features.values())).shape[0]
    if k > n_items:
        raise ValueError(f"--topk {k}: there are only {n_items} items")
    return sp.hstack([neighbour_incidence(matrix, k) for matrix in features.values()], format="csr")
