"""Put the rows of a feature matrix that another program has made in the order of the items.

Ids are a column of a table, an array in a .npz file, or in a file beside the matrix.
"""

import re
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from preprocess.modalities.output import exclusive, require_informative, write_features
from preprocess.modalities.settings import ImportSettings
from preprocess.raw.item_files import encode_id, read_item_ids
from preprocess.raw.summary import Summary, next_command
from preprocess.raw.table import Table, TableKind
from utils.data.embeddings import as_float_matrix
from utils.data.feature_checks import ids_file, read_ids
from utils.data.features import FORMATS, load_matrix
from utils.data.ids import likely_cause, match_ids, show_examples
from utils.data.interactions import Interactions
from utils.data.layout import ITEM_ID_FILE, require_files

ID_NAMES = ("item", "item_id", "itemid", "iid", "asin", "parent_asin", "id")  # of a column of ids; else the first one
FEATURES = TableKind("id_column", "item", lambda rows: ["item", *(f"column{n}" for n in range(2, len(rows[0]) + 1))])
FIRST_NUMBERS = ("0", "1")  # as --ids: rows are numbered from it
NO_NUMBERS = "not numbers separated by commas or blanks"


def import_features(file: Path, settings: ImportSettings) -> None:
    """Put the rows of a matrix in the order of the items, and write it.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """
    folder = require_files(settings.data_dir, settings.dataset, [f"{settings.dataset}.txt", ITEM_ID_FILE])
    item_ids = read_item_ids(folder, Interactions(folder / f"{settings.dataset}.txt", 0).n_items)
    row_ids, rows = read_foreign_features(file, settings.ids, settings.id_column, item_ids)
    match = match_ids([item_id for item_id in item_ids if item_id], row_ids)
    if not match.found:
        problem = f"none of its {len(row_ids):,} ids is one of the {len(item_ids):,} in {folder / ITEM_ID_FILE}"
        examples = f"{show_examples(item_ids, row_ids)}; {likely_cause(item_ids, row_ids)}"
        source = settings.ids if settings.ids and settings.ids not in FIRST_NUMBERS else file
        raise ValueError(f"{source}: {problem}: {examples}")
    row_of = {row_id: row for row, row_id in enumerate(row_ids)}
    pairs = [(item, row_of[match.found[item_id]]) for item, item_id in enumerate(item_ids) if item_id in match.found]
    items, taken = np.array(pairs).T
    choice = sp.csr_matrix((np.ones(len(items), np.float32), (items, taken)), (len(item_ids), len(row_ids)))
    features = choice @ rows
    path = folder / f"{settings.name}_feat{'.npz' if sp.issparse(features) else '.npy'}"
    with exclusive(path, settings.overwrite):
        require_informative(path, features, "import others")
        write_features(path, features, item_ids)
    summary = Summary(str(path))
    summary.add("rows read", len(row_ids), f"{rows.shape[1]:,} columns")
    summary.add_passed_over("rows of other items", len(row_ids) - len(items))
    remark = "zeros for the others" if len(items) < len(item_ids) else ""
    summary.add_matched("features", len(items), len(item_ids), "; ".join(filter(None, [match.note(), remark])))
    print(summary.render(next_command("preprocess.pretrain_graph", settings)))


# ---------------------------------------------------------------- reading


def read_foreign_features(
    file: Path, ids: str, id_column: str, item_ids: list[str]
) -> tuple[list[str], np.ndarray | sp.csr_matrix]:
    """Return the encoded id of each row, and the matrix: float32 (rows, width).

    Args:
        file: .npy, .npz or .pt file, or a table with a column of ids, whose other columns are numbers.
        ids: file with the ids of the rows, one per line or in a column of a table; 0 or 1: rows are numbered from it;
            empty: they are in `file`, or in NAME_ids.txt beside it.
        id_column: name of the column of ids; empty: recognised.
        item_ids: encoded ids of the dataset's items, by which a column of ids is recognised.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """
    if file.suffix not in FORMATS:
        row_ids, features = _read_table(file, id_column)
    elif file.suffix == ".npz" and (arrays := _read_arrays(file)) is not None:
        row_ids, features = arrays
    else:
        features = load_matrix(file)
        row_ids = None
    if not sp.issparse(features):
        features = np.asarray(features)
    if ids in FIRST_NUMBERS:
        row_ids = [str(number) for number in range(int(ids), features.shape[0] + int(ids))]
    elif ids:
        row_ids = _read_id_file(Path(ids), id_column, item_ids, features.shape[0])
    elif row_ids is None:
        companion = ids_file(file)
        if not companion.is_file():
            raise ValueError(
                f"{file}: no ids of its {features.shape[0]:,} rows; --ids takes a file with one per line, or 0 or 1 "
                "if the ids are the numbers of the rows"
            )
        row_ids = _read_id_file(companion, id_column, item_ids, features.shape[0])
    encoded = [encode_id(text.strip()) for text in row_ids]
    if len(set(encoded)) < len(encoded):
        seen = set()
        repeated = next(text for text in row_ids if text in seen or seen.add(text))
        raise ValueError(f"{ids or file}: id {repeated[:40]!r} is there twice; remove one of its rows")
    return encoded, features


def _read_table(file: Path, id_column: str) -> tuple[list[str], np.ndarray]:
    """Read a column of ids, and numbers: one per column, or several in one (RecBole's float_seq)."""
    table = Table(file, FEATURES, known=ID_NAMES)
    position = table.require("id_column", (id_column,)) if id_column else table.find(ID_NAMES) or 0
    others = [column for column, name in enumerate(table.names) if column != position and name.strip()]
    ids = []
    rows = []
    for where, item, *values in table.rows([position, *others]):
        try:
            rows.append(np.array(re.split(r"[\s,;]+", " ".join(values).strip("[]() ")), np.float32))
        except ValueError:
            raise ValueError(f"{where}: {NO_NUMBERS} beside the id {item[:40]!r}; remove such columns") from None
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(f"{where}: {len(rows[-1])} numbers, but {len(rows[0])} above; correct or remove it")
        ids.append(item)
    if not rows:
        raise ValueError(f"{file}: no row of features; give a table of ids and numbers, or a .npy file with --ids")
    return ids, _as_float_array(file, np.stack(rows))


def _read_arrays(file: Path) -> tuple[list[str], np.ndarray] | None:
    """Return ids and matrix of a file of numpy.savez with one array each; None of one by scipy.sparse.save_npz."""
    try:
        with np.load(file, allow_pickle=False) as content:
            if "indptr" in content.files:
                return None
            arrays = {name: content[name] for name in content.files}
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # many kinds for a damaged file
        raise ValueError(f"{file}: cut short, or arrays of other things than numbers and texts") from error
    ids = [array for array in arrays.values() if array.ndim == 1 and array.dtype.kind in "iuUS"]
    matrices = [array for array in arrays.values() if array.ndim == 2 and array.dtype.kind in "fiub"]
    if len(ids) != 1 or len(matrices) != 1 or len(ids[0]) != len(matrices[0]):
        listed = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{file}: one array of ids and one matrix of as many rows are expected, not {listed}")
    return [_to_text(value) for value in ids[0]], _as_float_array(file, matrices[0])


def _as_float_array(file: Path, features: np.ndarray) -> np.ndarray:
    """Return a finite float32 matrix, or raise a ValueError."""
    return as_float_matrix(file, torch.from_numpy(features), "regenerate it").numpy()


def _to_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _read_id_file(path: Path, id_column: str, item_ids: list[str], n_rows: int) -> list[str]:
    """Return the ids in a file: one per line, with or without a header, or those in a column of a table."""
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        lines = [_to_text(value) for value in array.ravel()]
    elif id_column:
        table = Table(path, FEATURES, known=(*ID_NAMES, id_column))
        lines = [text for _, text in table.rows([table.require("id_column", (id_column,))])]
    else:
        lines = [line.strip() for line in read_ids(path)]
        if not _knows_any(lines, item_ids):
            lines = _column_of_ids(path, item_ids) or lines
    if len(lines) == n_rows + 1 and not _knows_any(lines[:1], item_ids):
        lines = lines[1:]  # without the header
    if len(lines) != n_rows:
        raise ValueError(f"{path}: {len(lines):,} ids for {n_rows:,} rows; give the file that belongs to the matrix")
    return lines


def _knows_any(texts: list[str], item_ids: list[str]) -> bool:
    return bool(match_ids(item_ids, [encode_id(text) for text in texts]).found)


def _column_of_ids(path: Path, item_ids: list[str]) -> list[str]:
    """Return the one column of a table that has ids of the dataset; empty if there is none.

    Raises:
        ValueError: several columns have.
    """
    table = Table(path, FEATURES, known=ID_NAMES)
    columns = list(zip(*(values for _, *values in table.rows(list(range(len(table.names))))), strict=True))
    found = {name: column for name, column in zip(table.names, columns, strict=True) if _knows_any(column, item_ids)}
    if len(found) > 1:
        raise ValueError(f"{path}: columns {', '.join(found)} all have ids of items; --id_column names one of them")
    return list(next(iter(found.values()), ()))
