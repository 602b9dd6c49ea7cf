"""The settings that both pre-trainings share."""

from dataclasses import dataclass

from utils.cli.validation import SEED_RANGE, check_names, check_numbers, check_ranges

# Settings that a resumed pre-training may change: paths, devices and how often it saves
PRETRAIN_IGNORED_ON_RESUME = {"data_dir", "device", "output_dir", "logging_dir", "tables"}
PRETRAIN_IGNORED_ON_RESUME |= {"save_every_minutes", "resume", "overwrite"}


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of every pre-training."""

    # data
    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # folder that holds sequential/DATASET/, where the embedding tables are written too
    # training
    batch_size: int = 1024  # users per optimizer step
    lr: float = 1e-4  # initial learning rate
    num_epochs: int = 1000  # maximum number of epochs
    validate_every: int = 5  # epochs between validations
    patience: int = 5  # stop after this many validations without a better one; 0: never
    seed: int = 2024  # seed of every random generator
    device: str = "auto"  # cuda, cpu or another torch device; auto: CUDA if available
    # output
    target: str = "pretrain"  # name of the run and of its files
    output_dir: str = "output"  # folder for the best model and the checkpoints
    logging_dir: str = "log"  # folder for the log, metrics and curves
    save_every_minutes: float = 10.0  # minutes between checkpoints
    resume: bool = False  # resume from the last checkpoint of this run
    overwrite: bool = False  # replace existing embedding tables, and an earlier run of this target


def validate_pretrain_settings(settings: PretrainSettings) -> list[str]:
    """Return all problems of the shared settings, one phrase per problem."""
    problems = check_numbers(
        settings,
        at_least_1=("batch_size", "num_epochs", "validate_every"),
        positive=("lr",),
        at_least_0=("patience", "save_every_minutes"),
    )
    return problems + check_ranges(settings, seed=SEED_RANGE) + check_names(settings, "dataset", "target")
