"""Embedding tables of the items, checked against the interaction file."""

from pathlib import Path

from torch import Tensor

from llama.torch_file import is_dense_tensor, load_torch_file
from utils.data.interactions import Interactions
from utils.data.layout import SEQUENCE_TABLE, graph_table


def load_embedding(path: str | Path) -> Tensor:
    """Return an embedding table as float32 (rows, width).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a finite float tensor of two dimensions.
    """
    path = Path(path)
    table = load_torch_file(path)
    if not isinstance(table, Tensor) or not table.is_floating_point():
        raise ValueError(f"{path}: a float tensor (rows, width) is expected; regenerate the table")
    return as_float_matrix(path, table, "regenerate the table")


def as_float_matrix(path: Path, content: object, remedy: str) -> Tensor:
    """Return a file's content as a finite float32 matrix (rows, width).

    Args:
        path: path of the file, for the error.
        content: what was read from it.
        remedy: what the user should do about an error.

    Raises:
        ValueError: not a matrix of real numbers; or NaN or infinity, naming the first row that has one.
    """
    if not is_dense_tensor(content) or content.ndim != 2 or not content.shape[1] or content.is_complex():
        raise ValueError(f"{path}: a matrix (rows, width) of numbers is expected; {remedy}")
    table = content.detach().float()
    bad = ~table.isfinite().all(1)
    if bad.any():
        raise ValueError(f"{path}: row {int(bad.nonzero()[0])} holds NaN or infinity; {remedy}")
    return table


def load_graph_embeddings(GNNModel: str, data: Interactions) -> Tensor:
    """Return graph embeddings (I, d_g).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not one row per item; names table, row counts and interaction file.
    """
    return _load_rows(graph_table(GNNModel), data, data.n_items, "")


def load_sequence_embeddings(data: Interactions) -> Tensor:
    """Return sequence embeddings (I + 1, d_s), row 0 padding.

    Raises:
        FileNotFoundError, ValueError: as `load_graph_embeddings`.
    """
    return _load_rows(SEQUENCE_TABLE, data, data.n_items + 1, " (row 0 is padding)")


def _load_rows(name: str, data: Interactions, expected: int, note: str) -> Tensor:
    path = data.path.with_name(name)
    table = load_embedding(path)
    if len(table) != expected:
        raise ValueError(
            f"{path}: {len(table)} rows, but {data.path} has items up to {data.n_items - 1}, which needs "
            f"{expected}{note}; make both from the same data"
        )
    return table
