"""Settings and command lines of preprocess.check and preprocess.tables."""

from dataclasses import dataclass
from typing import Literal

from utils.cli.flags import parse_settings
from utils.cli.validation import check_names


@dataclass(frozen=True)
class CheckSettings:
    """Settings of the check."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # folder with sequential/DATASET/
    GNNModel: Literal["MMHCL", "LightGCN"] = "MMHCL"  # graph embeddings that fine-tuning is to read
    graph_input: bool = True  # fine-tuning is to read graph embeddings as an input of the item vectors
    seq_input: bool = True  # fine-tuning is to read sequence embeddings
    graph_adapter: bool = True  # fine-tuning is to read graph embeddings in the adapter
    feature_input: bool = False  # fine-tuning is to read item features


@dataclass(frozen=True)
class TableSettings:
    """Paths and name of a dataset."""

    dataset: str = "Mine"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # folder with sequential/DATASET/, where all outputs go
    GNNModel: Literal["MMHCL", "LightGCN"] = "MMHCL"  # graph embeddings to make
    sentences: bool = True  # encode texts by MiniLM, too, where its package is installed
    output_dir: str = "output"  # best models and checkpoints
    logging_dir: str = "log"  # logs, metrics and curves


def validate_settings(settings: CheckSettings | TableSettings) -> list[str]:
    """Return one message per invalid setting."""
    return check_names(settings, "dataset")


def parse_check(argv: list[str] | None = None) -> CheckSettings:
    """Parse the command line of preprocess.check; an invalid one ends the program with exit status 2."""
    description = "Check a dataset's files."
    return parse_settings(CheckSettings, argv, "python -m preprocess.check", description, validate_settings)


def parse_tables(argv: list[str] | None = None) -> TableSettings:
    """Parse the command line of preprocess.tables; an invalid one ends the program with exit status 2."""
    description = "Make the embedding tables that fine-tuning reads."
    return parse_settings(TableSettings, argv, "python -m preprocess.tables", description, validate_settings)
