"""Settings and command line of utils.baselines."""

from dataclasses import dataclass

from utils.cli.flags import parse_settings
from utils.cli.validation import check_max_len, check_names, check_numbers


@dataclass(frozen=True)
class BaselineSettings:
    """Settings of the baselines; one comment per field, shown by --help."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/DATASET/
    GNNModel: str = "MMHCL"  # graph-embedding files: MMHCL or LightGCN
    max_len: int = 50  # newest items of a user that are read, both held-out targets among them
    neighbours: int = 0  # similar items that count per item in item-kNN; 0: chosen by validation
    output_dir: str = "output"  # where preprocess.pretrain_sasrec has written its best model
    logging_dir: str = "log"  # metrics and ranks go to LOGGING_DIR/DATASET/baselines


def validate_settings(settings: BaselineSettings) -> list[str]:
    """Return all problems of the settings, one phrase each."""
    problems = check_numbers(settings, at_least_0=("neighbours",))
    return problems + check_names(settings, "dataset", "GNNModel") + check_max_len(settings)


def parse_args(argv: list[str] | None = None) -> BaselineSettings:
    """Parse a command line; an invalid one ends the program with one line and exit status 2."""
    description = (
        "Evaluate popularity, item-kNN, SASRec alone and graph embeddings alone by the metrics of fine-tuning."
    )
    return parse_settings(BaselineSettings, argv, "python -m utils.baselines", description, validate_settings)
