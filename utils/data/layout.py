"""Paths of a dataset's files, and those that fine-tuning reads (docs/method.md, section 1)."""

from pathlib import Path

DOWNLOAD_HINT = (
    "the public files come with the HeLLM release (arXiv 2504.10541), sequences also with E4SRec and IDGenRec; "
    "datasets/README.md says more; --preset demo makes its own"
)


def dataset_folder(data_dir: str | Path, dataset: str) -> Path:
    """Return the folder of a dataset's files."""
    return Path(data_dir) / "sequential" / dataset


def days_file(dataset: str) -> str:
    """Return the name of the optional file of days, which stands beside the interaction file."""
    return f"{dataset}_days.txt"


def required_files(dataset: str, GNNModel: str) -> list[str]:
    """Return the names of the files that fine-tuning reads: interactions, graph and sequence embeddings."""
    return [f"{dataset}.txt", f"{GNNModel}_item_embeddings.pt", "SASRec_item_embedding.pt"]


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
