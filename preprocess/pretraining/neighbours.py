"""Find the items that are nearest to each item by the cosine of their features."""

import numpy as np
import scipy.sparse as sp
import torch.nn.functional as F
from torch import Tensor

from utils.cli.progress import track

BLOCK_ROWS = 1024  # items whose similarities to all others are computed at a time, from dense features
BLOCK_ELEMENTS = 2**22  # similarities at most in such a block, from sparse features
PARTS_PER_NEIGHBOUR = 16  # parts of a row of similarities whose maxima are taken, for each neighbour to find


def neighbour_incidence(features: Tensor | sp.csr_matrix, k: int, n_edges: int | None = None) -> sp.csr_matrix:
    """Return one modality's H (I, I): hyperedge (column) e joins the k items that are nearest to item e by cosine.

    Only positive similarities count; an item without features (all zero) is in no hyperedge and has none. Both ways
    are exact and compute a block of items at a time. Of equal similarities at the end of a hyperedge

    * dense features keep any: item e is in its own hyperedge unless more than k items tie for the nearest;
    * sparse features keep item e itself, then the items with the smallest ids. Similarities that float32 cannot
      distinguish are equal.

    Args:
        features: float (I, width), finite; a CSR matrix has no number twice.
        k: items per hyperedge, at most I.
        n_edges: how many hyperedges to find, those of the first items; the others stay empty. None: all.
    """
    n_items = features.shape[0]
    find = _sparse_neighbours if sp.issparse(features) else _dense_neighbours
    members, edges = find(features, k, n_items if n_edges is None else n_edges)
    return sp.csr_matrix((np.ones(len(members), np.float32), (members, edges)), (n_items, n_items))


def _dense_neighbours(features: Tensor, k: int, n_edges: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each hyperedge's items, and the hyperedge that each of them is in: int64 (memberships,) both."""
    unit = F.normalize(features.float(), dim=1)
    members = []
    edges = []
    starts = range(0, n_edges, BLOCK_ROWS)
    for first in track(starts, "nearest items", "blocks", len(starts)):
        similarity, nearest = (unit[first : min(first + BLOCK_ROWS, n_edges)] @ unit.T).topk(k, dim=1)
        edge, neighbour = (similarity > 0).nonzero(as_tuple=True)  # indices into (block, k)
        edges.append((edge + first).cpu().numpy())
        members.append(nearest[edge, neighbour].cpu().numpy())
    return np.concatenate(members), np.concatenate(edges)


def _sparse_neighbours(features: sp.csr_matrix, k: int, n_edges: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same of sparse features, from products of a block of rows and the transpose."""
    n_items = features.shape[0]
    # Without its empty columns, so that the transpose has no empty rows, however wide the matrix says that it is
    used, columns = np.unique(features.indices, return_inverse=True)
    unit = sp.csr_matrix((features.data.astype(np.float64), columns, features.indptr), (n_items, len(used)))
    unit = sp.diags(1 / np.maximum(sp.linalg.norm(unit, axis=1), 1e-12)) @ unit
    transpose = unit.T.tocsr()
    members = []
    edges = []
    block_rows = max(1, BLOCK_ELEMENTS // n_items)
    starts = range(0, n_edges, block_rows)
    for first in track(starts, "nearest items", "blocks", len(starts)):
        block = unit[first : min(first + block_rows, n_edges)] @ transpose
        edge, member = _largest_of_rows(block, k, first)
        edges.append(edge)
        members.append(member)
    return np.concatenate(members), np.concatenate(edges)


def _largest_of_rows(block: sp.csr_matrix, k: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of the k largest positive numbers in each row, those of the smallest columns if equal.

    Args:
        block: float64 (rows, I), similarities of the items `first` and following, in any order in each row.
        k: numbers per row.
        first: item of row 0, whose similarity to itself precedes equal ones.

    Returns:
        Items of rows and of columns: int64 (numbers,) both.
    """
    similarity = block.data.astype(np.float32)
    lengths = np.diff(block.indptr)
    threshold = np.zeros(len(lengths), np.float32)
    n_parts = PARTS_PER_NEIGHBOUR * k
    if lengths.max() >= n_parts:
        # The k-th largest of the maxima of a row's parts: k numbers or more are no smaller, and not many more
        parts = block.indptr[:-1, None] + lengths[:, None].astype(np.int64) * np.arange(n_parts) // n_parts
        maxima = np.maximum.reduceat(similarity, np.minimum(parts.ravel(), block.nnz - 1)).reshape(parts.shape)
        kth = np.partition(maxima, n_parts - k, axis=1)[:, n_parts - k]
        threshold = np.where(lengths >= n_parts, kth, threshold)
    found = np.flatnonzero((similarity >= np.repeat(threshold, lengths)) & (similarity > 0))
    edge = np.searchsorted(block.indptr, found, side="right") - 1 + first
    member = block.indices[found].astype(np.int64)
    order = np.lexsort((member, member != edge, -similarity[found], edge))
    edge = edge[order]
    member = member[order]
    rank = np.arange(len(edge)) - np.searchsorted(edge, edge)
    return edge[rank < k], member[rank < k]
