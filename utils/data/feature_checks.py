"""Check that features tell items apart, and that their rows are in the order of the items.

`NAME_ids.txt` beside `NAME_feat.npy`, if it is there, has the id of each row, and is compared with `i_id_mapping.csv`.
"""

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.data.ids import canonical_form
from utils.data.layout import ITEM_ID_FILE

EQUAL = 1e-5  # largest distance of equal rows of length 1
BLOCK_ROWS = 1024  # rows that are compared at a time


class UninformativeModalityError(ValueError):
    """A modality in which no two items can be told apart."""


def count_rows(features: Tensor | sp.csr_matrix) -> int:
    """Return the number of rows that are not zero: items that have features."""
    return int(np.count_nonzero(np.diff(features.indptr)) if sp.issparse(features) else features.any(1).sum())


def why_uninformative(features: Tensor | sp.csr_matrix) -> str:
    """Return why features tell no two items apart by the cosine of their rows; empty if they do.

    Args:
        features: float32 (I, width), finite; sparse rows as `load_matrix` returns them.
    """
    rows = _rows_of_equal_columns(features) if sp.issparse(features) else features
    if rows is None:
        return ""
    first = None
    are_equal = True
    n_rows = 0
    for block in rows.split(BLOCK_ROWS):
        block = block[block.any(1)]
        if not len(block):
            continue
        if first is None:
            first = block[:1]
        if (F.normalize(block, dim=1) - F.normalize(first, dim=1)).norm(dim=1).max() > EQUAL:
            return ""
        are_equal &= bool((block - first).norm(dim=1).max() <= EQUAL * first.norm())
        n_rows += len(block)
    if n_rows < 2:
        return "only one row is not zero, so there are no two items to compare" if features.shape[0] > 1 else ""
    which = "all rows" if n_rows == features.shape[0] else f"all {n_rows:,} rows that are not zero"
    return f"{which} {'are equal' if are_equal else 'point in one direction'}, so they tell no two items apart"


def _rows_of_equal_columns(features: sp.csr_matrix) -> Tensor | None:
    """Return the numbers of all rows that are not zero, if they stand in the same columns: float32 (rows, n)."""
    lengths = np.diff(features.indptr)
    lengths = lengths[lengths > 0]
    if not len(lengths) or (lengths != lengths[0]).any():
        return None
    columns = features.indices.reshape(len(lengths), -1)
    if (columns != columns[0]).any():
        return None
    return torch.from_numpy(features.data.reshape(len(lengths), -1))


# ---------------------------------------------------------------- ids of rows


def ids_file(path: Path) -> Path:
    """Return the optional file with the id of each row of NAME_feat.npy: NAME_ids.txt."""
    return path.with_name(f"{path.stem.removesuffix('_feat')}_ids.txt")


def check_row_ids(path: Path, n_items: int) -> str:
    """Compare the ids of a matrix's rows, where NAME_ids.txt has them, with those of the items.

    Args:
        path: the matrix.
        n_items: its rows, I.

    Returns:
        What was compared, in words.

    Raises:
        ValueError: a row belongs to another item; names file and line.
    """
    file = ids_file(path)
    mapping = path.with_name(ITEM_ID_FILE)
    if not file.is_file():
        return f"no {file.name}: row i is item i of {ITEM_ID_FILE}"
    if not mapping.is_file():
        return f"no {ITEM_ID_FILE} to compare {file.name} with"
    rows = read_ids(file)
    items = [line.partition(",")[2] for line in read_ids(mapping)[1:]]
    remedy = f"put the rows in the order of the items: {import_command(path)}"
    if len(rows) != n_items:
        raise ValueError(f"{file}: {len(rows)} ids for {n_items} rows; complete it, or {remedy}")
    for number, (row, item) in enumerate(zip(rows, items, strict=False), 1):
        if row != item and canonical_form(row) != canonical_form(item):
            raise ValueError(f"{file}: line {number}: {row[:40]!r} where {ITEM_ID_FILE} has {item[:40]!r}; {remedy}")
    return f"ids as in {ITEM_ID_FILE}"


def read_ids(path: Path) -> list[str]:
    """Return the ids in a file with one per line, those of trailing blank lines left out."""
    return path.read_text("utf-8-sig", errors="replace").rstrip().split("\n")


def import_command(path: Path) -> str:
    """Return the command that puts the rows of a matrix in the order of the items."""
    folder = path.parent
    flags = f"--dataset {folder.name} --data_dir {folder.parents[1]}" if len(folder.parents) > 1 else ""
    name = path.stem.removesuffix("_feat")
    return f"python -m preprocess.features import {path} --ids FILE --name {name} {flags} --overwrite"
