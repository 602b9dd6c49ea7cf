"""The user-to-user and item-to-item hypergraphs as linear operators that are never multiplied out.

Costs grow with the number of interactions and neighbours, not with users² or items².
"""

import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama.torch_file import load_torch_file
from utils.data.embeddings import as_float_matrix

BLOCK = 1024  # rows of similarities at a time


class _ConstantSpMM(torch.autograd.Function):
    """matrix @ x for a constant matrix, whose transpose serves the backward pass."""

    @staticmethod
    def forward(ctx, matrix: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
        ctx.transposed = transposed
        return _spmm(matrix, x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return None, None, _spmm(ctx.transposed, gradient.contiguous())


def _spmm(matrix: Tensor, x: Tensor) -> Tensor:
    """A CSR tensor (n, m) times (m, d)."""
    # A sum over each row's columns: three times as fast on a CPU as torch's own product with a CSR tensor.
    columns, offsets, values = matrix.col_indices(), matrix.crow_indices(), matrix.values()
    return F.embedding_bag(columns, x, offsets, mode="sum", per_sample_weights=values, include_last_offset=True)


class SparseMatrix(nn.Module):
    """A constant sparse matrix of float32, kept with its transpose, both by rows.

    Args:
        matrix: any scipy sparse matrix (n, m).
    """

    def __init__(self, matrix: sp.spmatrix) -> None:
        super().__init__()
        self.register_buffer("rows", _to_torch_csr(matrix), persistent=False)
        self.register_buffer("columns", _to_torch_csr(matrix.T), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """matrix @ x: (m, d) to (n, d)."""
        return _ConstantSpMM.apply(self.rows, self.columns, x)

    def transposed(self, x: Tensor) -> Tensor:
        """matrixᵀ @ x: (n, d) to (m, d)."""
        return _ConstantSpMM.apply(self.columns, self.rows, x)


def _to_torch_csr(matrix: sp.spmatrix) -> Tensor:
    m = sp.csr_matrix(matrix, dtype=np.float32)
    m.sort_indices()
    parts = (torch.from_numpy(a.astype(np.int64)) for a in (m.indptr, m.indices))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch calls the format a beta
        return torch.sparse_csr_tensor(*parts, torch.from_numpy(m.data), m.shape, check_invariants=False)


class InteractionGraph(nn.Module):
    """One step of LightGCN: the bipartite graph of R with symmetric normalisation, D_u^-½ R D_i^-½ and its transpose.

    Args:
        R: binary (U, I), who bought what.
    """

    def __init__(self, R: sp.csr_matrix) -> None:
        super().__init__()
        user_scale, item_scale = (_safe_power(np.asarray(R.sum(axis)).ravel(), -0.5) for axis in (1, 0))
        self.normalised = SparseMatrix(sp.diags(user_scale) @ R @ sp.diags(item_scale))

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """(U, d) and (I, d) to what flows in from the other side, in the same shapes."""
        return self.normalised(items), self.normalised.transposed(users)


class UserHypergraph(nn.Module):
    """Users joined by shared purchases: row-normalised R Rᵀ without its diagonal.

    A user who shares no purchase with anybody has a row of zeros.

    Args:
        R: binary (U, I).
    """

    def __init__(self, R: sp.csr_matrix) -> None:
        super().__init__()
        self.incidence = SparseMatrix(R)
        diagonal = np.asarray(R.sum(1)).ravel()
        degree = np.asarray(R @ (R.T @ np.ones(R.shape[0]))).ravel() - diagonal
        for name, values in (("diagonal", diagonal), ("scale", _safe_power(degree, -1))):
            self.register_buffer(name, torch.from_numpy(values).float()[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(U, d) to (U, d)."""
        return self.scale * (self.incidence(self.incidence.transposed(x)) - self.diagonal * x)


class ItemHypergraph(nn.Module):
    """Items joined by similar features: symmetric-normalised H Hᵀ, its diagonal kept.

    Args:
        H: binary (I, E), items by hyperedges; an item in no hyperedge has a row of zeros.
    """

    def __init__(self, H: sp.csr_matrix) -> None:
        super().__init__()
        degree = np.asarray(H @ (H.T @ np.ones(H.shape[0]))).ravel()
        self.incidence = SparseMatrix(sp.diags(_safe_power(degree, -0.5)) @ H)

    def forward(self, x: Tensor) -> Tensor:
        """(I, d) to (I, d)."""
        return self.incidence(self.incidence.transposed(x))


def _safe_power(values: np.ndarray, exponent: float) -> np.ndarray:
    """values ** exponent, 0 where the value is 0."""
    return np.where(values > 0, np.maximum(values, 1e-12) ** exponent, 0.0)


def interaction_matrix(users: np.ndarray, items: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """Binary R from pairs, a repeated purchase counted once."""
    R = sp.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape)
    R.data[:] = 1
    R.sort_indices()
    return R


def neighbour_incidence(features: Tensor, k: int) -> sp.csr_matrix:
    """One modality's H (I, I): hyperedge (column) e joins the k nearest items of item e by cosine, itself included.

    Only positive similarities count; an item without features (all zero) is in no hyperedge and has none.
    Exact, in blocks of items.

    Args:
        features: float (I, f), finite; k: at most I.
    """
    unit = F.normalize(features.float(), dim=1)
    members, edges = [], []
    for first in range(0, len(unit), BLOCK):
        similarity, nearest = (unit[first : first + BLOCK] @ unit.T).topk(k, dim=1)
        edge, place = (similarity > 0).nonzero(as_tuple=True)
        edges.append((edge + first).cpu().numpy())
        members.append(nearest[edge, place].cpu().numpy())
    members, edges = np.concatenate(members), np.concatenate(edges)
    return sp.csr_matrix((np.ones(len(edges), np.float32), (members, edges)), (len(unit), len(unit)))


def find_features(folder: Path) -> list[Path]:
    """The feature matrices of a dataset: every `*_feat.npy` or `*_feat.pt`, by name.

    Raises:
        ValueError: one modality in both formats.
    """
    paths = sorted(p for p in Path(folder).glob("*_feat.*") if p.suffix in (".npy", ".pt"))
    for one, other in zip(paths, paths[1:], strict=False):
        if one.stem == other.stem:
            raise ValueError(f"{one} and {other}: the same modality twice; remove one of them")
    return paths


def load_array(path: Path) -> Tensor:
    """A NumPy file's array; mapped, so that no more is taken into memory than there is.

    Raises:
        ValueError: cut short, or something else than numbers.
    """
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # many kinds for a damaged file
        raise ValueError(f"{path}: cut short or not an array of numbers; make it again") from error


def load_features(path: Path, n_items: int) -> Tensor:
    """One modality's features: float32 (I, f).

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    table = as_float_matrix(path, load_array(path) if path.suffix == ".npy" else load_torch_file(path), "make it again")
    if len(table) != n_items:
        raise ValueError(f"{path}: {len(table)} rows for {n_items} items; make it from the same interaction file")
    if not table.any():
        raise ValueError(f"{path}: every row is zero, so it joins no items; remove it or make it again")
    return table


def item_incidence(features: dict[str, Tensor], k: int) -> sp.csr_matrix:
    """H = [H_image | H_text | …] (I, M · I).

    Raises:
        ValueError: no modality, or k beyond the number of items.
    """
    if not features:
        raise ValueError("no *_feat.npy or *_feat.pt: the item hypergraph needs one, or --item_loss_ratio 0")
    n_items = len(next(iter(features.values())))
    if k > n_items:
        raise ValueError(f"--topk {k}: there are only {n_items} items")
    return sp.hstack([neighbour_incidence(table, k) for table in features.values()], format="csr")
