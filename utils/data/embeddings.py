"""Interaction file to training samples, evaluation users and batches (SPEC.md section 1)."""

from pathlib import Path

from torch import Tensor

from llama.torch_file import is_dense_tensor, load_torch_file
from utils.data.interactions import Interactions


def load_embedding(path: str | Path) -> Tensor:
    """An embedding table as float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a finite float tensor of two dimensions.
    """
    path = Path(path)
    table = load_torch_file(path)
    if not isinstance(table, Tensor) or not table.is_floating_point():
        raise ValueError(f"{path}: a float tensor (rows, width) is expected; make the table again")
    return as_float_matrix(path, table, "make the table again")


def as_float_matrix(path: Path, content: object, remedy: str) -> Tensor:
    """What a file holds, as a finite float32 matrix (rows, width).

    Raises:
        ValueError: not a matrix of numbers, all of them in the file; or naming the first row with NaN or infinity.
    """
    if not is_dense_tensor(content) or content.ndim != 2 or not content.shape[1] or content.is_complex():
        raise ValueError(f"{path}: a matrix (rows, width) of numbers is expected; {remedy}")
    table = content.detach().float()
    bad = ~table.isfinite().all(1)
    if bad.any():
        raise ValueError(f"{path}: row {int(bad.nonzero()[0])} holds NaN or infinity; {remedy}")
    return table


def load_item_embeddings(folder: Path, GNNModel: str, data: Interactions) -> tuple[Tensor, Tensor]:
    """Graph (I, d_g) and sequence (I + 1, d_s) embeddings, their sizes checked against the interaction file.

    Raises:
        ValueError: naming table, row counts and interaction file.
    """
    tables = []
    for name, padding in ((f"{GNNModel}_item_embeddings.pt", 0), ("SASRec_item_embedding.pt", 1)):
        table = load_embedding(folder / name)
        if len(table) != data.n_items + padding:
            raise ValueError(
                f"{folder / name}: {len(table)} rows, but {data.path} has items up to {data.n_items - 1}, which needs "
                f"{data.n_items + padding}{' (row 0 is padding)' if padding else ''}; make both from the same data"
            )
        tables.append(table)
    return tables[0], tables[1]
