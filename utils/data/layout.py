"""Paths of a dataset's files, and those that fine-tuning reads (docs/method.md, section 1)."""

from pathlib import Path

DOWNLOAD_HINT = (
    "the public files come with the HeLLM release (arXiv 2504.10541), sequences also with E4SRec and IDGenRec; "
    "datasets/README.md says more; --preset demo makes its own"
)

SEQUENCE_TABLE = "SASRec_item_embedding.pt"
ITEM_ID_FILE = "i_id_mapping.csv"  # our number and the raw id of each item, below a header


def dataset_folder(data_dir: str | Path, dataset: str) -> Path:
    """Return the folder of a dataset's files."""
    return Path(data_dir) / "sequential" / dataset


def days_file(dataset: str) -> str:
    """Return the name of the optional file of days, which stands beside the interaction file."""
    return f"{dataset}_days.txt"


def required_files(dataset: str, GNNModel: str, graph: bool = True, sequence: bool = True) -> list[str]:
    """Return the names of the files that fine-tuning reads: interactions, and the embeddings that the model reads."""
    names = [f"{dataset}.txt"]
    if graph:
        names.append(graph_table(GNNModel))
    if sequence:
        names.append(SEQUENCE_TABLE)
    return names


def graph_table(GNNModel: str) -> str:
    """Return the name of the file of graph embeddings."""
    return f"{GNNModel}_item_embeddings.pt"


def require_files(data_dir: str | Path, dataset: str, names: list[str]) -> Path:
    """Return the dataset's folder, which must have every named file.

    Raises:
        FileNotFoundError: lists what is missing, the expected files and where they come from.
    """
    folder = dataset_folder(data_dir, dataset)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        problem = f"{', '.join(missing)} missing" if folder.is_dir() else "no such folder"
        raise FileNotFoundError(f"{folder}: {problem}; expected {folder}/{{{', '.join(names)}}}; {DOWNLOAD_HINT}")
    return folder
