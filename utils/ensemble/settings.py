"""Settings and command line of utils.ensemble."""

import math
from dataclasses import dataclass

from utils.cli.flags import SettingsParser
from utils.cli.validation import check_criterion, check_names, check_numbers


@dataclass(frozen=True)
class EnsembleSettings:
    """Settings of a committee; one comment per field, shown by --help."""

    out: str = ""  # name of the committee and of its files
    weights: str = "equal"  # equal, validation (chosen by --choose_by), or a number per member: 0.6,0.4
    choose_by: str = "val_unseen.NDCG@10"  # validation metric that chooses weights; val.NDCG@10: all items ranked
    data_dir: str = "datasets"  # folder that holds sequential/DATASET/
    output_dir: str = "output"  # folder for the file that names the members
    logging_dir: str = "log"  # folder for the log, metrics and ranks
    eval_batch_size: int = 0  # users per forward pass; 0: the least of the members' own
    device: str = "auto"  # cuda, cpu or another torch device; auto: CUDA if available
    overwrite: bool = False  # replace a finished run of this name


def parse_weights(text: str) -> list[float]:
    """Return the numbers of --weights; none of "equal" and "validation".

    Raises:
        ValueError: it is neither a word that is known nor numbers that can be weights.
    """
    if text in ("equal", "validation"):
        return []
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        weights = []
    if not weights or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(f"--weights {text}: equal, validation, or numbers of 0 or above, such as 0.6,0.4")
    return weights


def validate_settings(settings: EnsembleSettings) -> list[str]:
    """Return all problems of the settings, one phrase each."""
    problems = check_numbers(settings, at_least_0=("eval_batch_size",)) + check_names(settings, "out")
    problems += check_criterion(settings)
    try:
        parse_weights(settings.weights)
    except ValueError as error:
        problems.append(str(error))
    return problems


def parse_args(argv: list[str] | None = None) -> tuple[EnsembleSettings, list[str]]:
    """Return the settings and the members' folders; an invalid command line ends the program with exit status 2."""
    program = "python -m utils.ensemble"
    description = "Sum the scores of finished runs, test the sum once, and write it as a run."
    parser = SettingsParser(EnsembleSettings, program, description, validate_settings)
    parser.usage = f"{program} RUN [RUN ...] --out NAME [flags]"
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run: output/DATASET/GNNMODEL/TARGET")
    settings, given = parser.parse(argv)
    return settings, given.runs
