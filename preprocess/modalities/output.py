"""Write the feature matrix of a modality, one run at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from preprocess.modalities.shards import remove_shards, remove_stale_shards
from utils.data.feature_checks import UninformativeModalityError, why_uninformative
from utils.data.features import same_modality, save_features
from utils.runtime.lock import run_lock


def refuse_overwrite(path: Path, overwrite: bool) -> None:
    """Raise a ValueError if the features exist, in any format, unless they are to be overwritten."""
    existing = same_modality(path)
    if existing and not overwrite:
        remove_stale_shards(existing[0])
        raise ValueError(f"{existing[0]}: already exists; --overwrite replaces it")


@contextlib.contextmanager
def exclusive(path: Path, overwrite: bool) -> Iterator[None]:
    """Lock a matrix and its shards for the duration of the block.

    Raises:
        ValueError: another run uses it, or has written it in the meantime.
    """
    with run_lock(path.with_suffix(""), is_prefix=True, flag="--name"):
        refuse_overwrite(path, overwrite)
        yield


def require_informative(path: Path, features: np.ndarray | sp.csr_matrix, remedy: str) -> None:
    """Refuse a matrix in which no two items can be told apart, and remove its shards.

    Raises:
        UninformativeModalityError: naming the matrix, the reason and the remedy.
    """
    reason = why_uninformative(features if sp.issparse(features) else torch.from_numpy(features))
    if reason:
        remove_shards(path)
        raise UninformativeModalityError(f"{path}: not written: {reason}; {remedy}")


def write_features(path: Path, features: np.ndarray | sp.csr_matrix, ids: list[str] | None = None) -> None:
    """Write the finished matrix, with the ids of its rows if they are given, and remove its shards."""
    save_features(path, features, ids)
    remove_shards(path)
