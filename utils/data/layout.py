"""Interaction file to training samples, evaluation users and batches (SPEC.md section 1)."""

from pathlib import Path

DOWNLOAD_HINT = (
    "the public files come with the HeLLM release (arXiv 2504.10541), sequences also with E4SRec and IDGenRec; "
    "datasets/README.md tells; --preset demo makes its own"
)


def dataset_folder(data_dir: str | Path, dataset: str) -> Path:
    """Where a dataset's files lie."""
    return Path(data_dir) / "sequential" / dataset


def required_files(dataset: str, GNNModel: str) -> list[str]:
    """Names of the files that fine-tuning reads."""
    return [f"{dataset}.txt", f"{GNNModel}_item_embeddings.pt", "SASRec_item_embedding.pt"]


def require_files(data_dir: str | Path, dataset: str, names: list[str]) -> Path:
    """The dataset's folder, once every named file is there.

    Raises:
        FileNotFoundError: listing what is missing, the expected files and where they come from.
    """
    folder = dataset_folder(data_dir, dataset)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        what = f"{', '.join(missing)} missing" if folder.is_dir() else "no such folder"
        raise FileNotFoundError(f"{folder}: {what}; expected {folder}/{{{', '.join(names)}}}; {DOWNLOAD_HINT}")
    return folder
