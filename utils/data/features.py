"""Files of item features: one per modality, NAME_feat.npy or .pt, or NAME_feat.npz if the matrix is sparse."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from llama.torch_file import load_torch_file
from utils.data.embeddings import as_float_matrix
from utils.data.feature_checks import (
    UninformativeModalityError,
    check_row_ids,
    count_rows,
    ids_file,
    import_command,
    why_uninformative,
)
from utils.io.atomic import atomic_write, save_array

FORMATS = (".npy", ".npz", ".pt")
REMEDY = "regenerate it"
OVERSAMPLING = 16  # columns that the randomised projection computes beyond those it keeps
POWER_ITERATIONS = 8  # of the randomised projection
MIN_STRENGTH = 1e-6  # share of the strongest column's sum of squares below which a column is rounding errors


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


def choose_features(folder: Path, modalities: tuple[str, ...], alternative: str) -> dict[str, Path]:
    """Return the feature files of some modalities, or of all that have one, by modality.

    Args:
        folder: folder of the dataset.
        modalities: names of modalities; empty: all.
        alternative: how to do without features, for the error.

    Raises:
        FileNotFoundError: one of them is missing, or there is none at all.
        ValueError: one modality in two formats.
    """
    paths = {path.stem.removesuffix("_feat"): path for path in find_features(folder)}
    absent = [name for name in modalities if name not in paths]
    if absent or not paths:
        names = " or ".join(f"{name}_feat" for name in absent or ["text", "image"])
        raise FileNotFoundError(
            f"{folder}: no {names}.npy, .npz or .pt; make one by python -m preprocess.features, or {alternative}"
        )
    return {name: path for name, path in paths.items() if not modalities or name in modalities}


def same_modality(path: Path) -> list[Path]:
    """Return the existing files of a feature matrix, in any format."""
    return [other for other in map(path.with_suffix, FORMATS) if other.exists()]


def save_features(path: Path, features: np.ndarray | sp.csr_matrix, ids: list[str] | None = None) -> None:
    """Write a feature matrix atomically, then remove what the modality has in other formats.

    Args:
        path: NAME_feat.npy of an array, NAME_feat.npz of a sparse matrix.
        features: (I, width).
        ids: id of each row, which NAME_ids.txt is to have; None: no such file.

    Raises:
        DiskFullError: the disk is full.
    """
    ids_file(path).unlink(missing_ok=True)
    if sp.issparse(features):
        n_bytes = features.data.nbytes + features.indices.nbytes
        with atomic_write(path, n_bytes) as temporary, temporary.open("wb") as file:
            sp.save_npz(file, features)
    else:
        save_array(path, features)
    for other in same_modality(path):
        if other != path:
            other.unlink()
    if ids is not None:
        with atomic_write(ids_file(path)) as temporary:
            temporary.write_text("".join(f"{text}\n" for text in ids), encoding="utf-8")


def load_matrix(path: Path) -> Tensor | sp.csr_matrix:
    """Return the matrix in a file, float32 (rows, width), sparse if it is a .npz file.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    match path.suffix:
        case ".npz":
            return _load_sparse(path)
        case ".npy":
            return as_float_matrix(path, _load_array(path), REMEDY)
        case _:
            return as_float_matrix(path, load_torch_file(path), REMEDY)


def load_features(path: Path, n_items: int) -> Tensor | sp.csr_matrix:
    """Return one modality's features: float32 (I, width), sparse if they are in a .npz file.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    features = load_matrix(path)
    n_rows = features.shape[0]
    if n_rows != n_items:
        raise ValueError(
            f"{path}: {n_rows} rows for {n_items} items; make it from the same interaction file, or put its rows in "
            f"the order of the items: {import_command(path)} (--ids 0 if row i has the id i)"
        )
    check_row_ids(path, n_items)
    if not (features.nnz if sp.issparse(features) else features.any()):
        raise ValueError(f"{path}: every row is zero, so it joins no items; remove it or regenerate it")
    return features


def load_informative_features(
    paths: Iterable[Path], n_items: int, named: bool = False
) -> tuple[dict[Path, Tensor | sp.csr_matrix], list[str]]:
    """Load the features of some modalities, without those in which no two items can be told apart.

    Args:
        paths: files of features.
        n_items: number of items, I.
        named: the user has named these modalities; one that tells no items apart is refused.

    Returns:
        Matrix per file, as `load_features`, and a line per file for the log: how many items have features, or why they
        are left out.

    Raises:
        UninformativeModalityError: of a modality that the user has named, or if no other is left.
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    matrices = {}
    lines = []
    for path in paths:
        features = load_features(path, n_items)
        reason = why_uninformative(features)
        if reason and named:
            raise UninformativeModalityError(f"{path}: {reason}; leave it out of --features")
        if reason:
            lines.append(f"{path.name} left out: {reason}")
        else:
            matrices[path] = features
            lines.append(f"{path.name}: features of {count_rows(features):,} of {n_items:,} items")
    if lines and not matrices:
        raise UninformativeModalityError(
            f"{next(iter(paths)).parent}: no features are left: {'; '.join(lines)}; make others"
        )
    return matrices, lines


def load_reduced_features(paths: Iterable[Path], n_items: int, width: int, named: bool = False) -> Tensor:
    """Return the features of some modalities side by side, each reduced to a width: float32 (I, sum of widths).

    Args:
        paths: files of features.
        n_items: I.
        width: columns per modality, at most.
        named: the user has named these modalities, see `load_informative_features`.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    matrices, _ = load_informative_features(paths, n_items, named)
    empty = torch.zeros(n_items, 0)
    return torch.cat([empty, *(reduce_features(matrix, width) for matrix in matrices.values())], 1)


def reduce_features(features: Tensor | sp.csr_matrix, width: int) -> Tensor:
    """Project rows of length 1 on their first right singular vectors: (I, d) to float32 (I, min(width, d, I)).

    The products of the projected rows are the best approximation of the cosine similarities by so few columns.
    Where no column has to go, rows are only scaled. A row of zeros stays one. The same input gives the same
    result, by a randomised decomposition (arXiv 0909.4061) with a fixed seed.

    Args:
        features: float32 (I, d), dense or sparse.
        width: columns of the result, at most.
    """
    if sp.issparse(features):
        length = sp.linalg.norm(features, axis=1)
        unit = sp.csr_matrix(sp.diags(1 / np.maximum(length, 1e-12)) @ features, dtype=np.float32)
    else:
        unit = F.normalize(features.float(), dim=1).numpy()
    if unit.shape[1] <= min(width, unit.shape[0]):
        return torch.from_numpy(unit.toarray() if sp.issparse(unit) else unit)
    rank = min(width + OVERSAMPLING, *unit.shape)
    basis = np.random.default_rng(0).standard_normal((unit.shape[1], rank), np.float32)
    for _ in range(POWER_ITERATIONS):
        # PyTorch's decomposition: NumPy's takes seven times as long
        basis = torch.linalg.qr(torch.from_numpy(unit.T @ (unit @ basis)))[0].numpy()
    projected = unit @ basis
    strength, directions = np.linalg.eigh(projected.T @ projected)  # in ascending order
    directions[:, strength < MIN_STRENGTH * strength[-1]] = 0  # directions of rounding errors
    return torch.from_numpy(np.ascontiguousarray(projected @ directions[:, : -width - 1 : -1]))


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
        # SciPy subtracts neighbours, which may overflow, and then writes anywhere in memory
        if (content.indptr[1:] < content.indptr[:-1]).any() or content.indptr[-1] != len(content.indices):
            raise ValueError("row pointers in another order, or of another number of entries")
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
