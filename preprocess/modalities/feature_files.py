"""Files of item features: one per modality, NAME_feat.npy or .pt, or NAME_feat.npz if the matrix is sparse."""

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from llama.torch_file import load_torch_file
from utils.data.embeddings import as_float_matrix
from utils.io.atomic import atomic_write, save_array

FORMATS = (".npy", ".npz", ".pt")
REMEDY = "regenerate it"


def find_features(folder: Path) -> list[Path]:
    """Return the feature matrices of a dataset, every `*_feat.npy`, `.npz` or `.pt`, sorted by name.

    Raises:
        ValueError: one modality in two formats.
    """
    paths = sorted(path for path in Path(folder).glob("*_feat.*") if path.suffix in FORMATS)
    for path, following in zip(paths, paths[1:], strict=False):
        if path.stem == following.stem:
            raise ValueError(f"{path} and {following}: the same modality twice; remove one of them")
    return paths


def same_modality(path: Path) -> list[Path]:
    """Return the existing files of a feature matrix, in any format."""
    return [other for other in map(path.with_suffix, FORMATS) if other.exists()]


def save_features(path: Path, features: np.ndarray | sp.csr_matrix) -> None:
    """Write a feature matrix atomically, then remove what the modality has in other formats.

    Args:
        path: NAME_feat.npy of an array, NAME_feat.npz of a sparse matrix.
        features: (I, width).

    Raises:
        DiskFullError: the disk is full.
    """
    if sp.issparse(features):
        n_bytes = features.data.nbytes + features.indices.nbytes
        with atomic_write(path, n_bytes) as temporary, temporary.open("wb") as file:
            sp.save_npz(file, features)
    else:
        save_array(path, features)
    for other in same_modality(path):
        if other != path:
            other.unlink()


def load_features(path: Path, n_items: int) -> Tensor | sp.csr_matrix:
    """Return one modality's features: float32 (I, width), sparse if they are in a .npz file.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    match path.suffix:
        case ".npz":
            features = _load_sparse(path)
        case ".npy":
            features = as_float_matrix(path, _load_array(path), REMEDY)
        case _:
            features = as_float_matrix(path, load_torch_file(path), REMEDY)
    n_rows = features.shape[0]
    if n_rows != n_items:
        raise ValueError(f"{path}: {n_rows} rows for {n_items} items; make it from the same interaction file")
    if not (features.nnz if sp.issparse(features) else features.any()):
        raise ValueError(f"{path}: every row is zero, so it joins no items; remove it or regenerate it")
    return features


def _load_array(path: Path) -> Tensor:
    """Memory-map a NumPy file, so that a header that claims more than the file contains allocates nothing.

    Raises:
        ValueError: cut short, or not an array of numbers.
    """
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # many kinds for a damaged file
        raise ValueError(f"{path}: cut short or not an array of numbers; {REMEDY}") from error


def _load_sparse(path: Path) -> sp.csr_matrix:
    """Return the matrix in a file of scipy.sparse.save_npz: float32 CSR, columns in order, each once, without zeros.

    Memory grows with the numbers that the file contains and with the rows, whatever size the matrix claims to have.

    Raises:
        ValueError: damaged, not a CSR matrix of real numbers, or NaN or infinity, naming the first row that has one.
    """
    try:
        content = sp.load_npz(path)  # which never loads pickled objects
        if content.format != "csr" or content.dtype.kind not in "biuf":
            raise ValueError("another format, or no real numbers")
        content.check_format(full_check=True)
        if (np.diff(content.indptr) < 0).any():  # which scipy overlooks if the last one is 0, and then writes anywhere
            raise ValueError("row pointers in another order")
        with np.errstate(over="ignore"):  # infinity is reported below
            features = sp.csr_matrix(content, dtype=np.float32)
        features.sum_duplicates()
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # many kinds for a damaged file
        expected = "a CSR matrix of real numbers, as scipy.sparse.save_npz writes it"
        raise ValueError(f"{path}: cut short or not {expected}; {REMEDY}") from error
    bad = np.flatnonzero(~np.isfinite(features.data))
    if len(bad):
        row = int(np.searchsorted(features.indptr, bad[0], side="right")) - 1
        raise ValueError(f"{path}: row {row} holds NaN or infinity; {REMEDY}")
    features.eliminate_zeros()
    return features
