"""Settings and command line of preprocess.pretrain_sasrec."""

from dataclasses import dataclass

from preprocess.pretraining.settings import PretrainSettings, validate_pretrain_settings
from utils.cli.flags import SettingsParser
from utils.cli.validation import MAX_COUNT, MAX_LAYERS, check_criterion, check_numbers, check_ranges


@dataclass(frozen=True)
class SequenceSettings(PretrainSettings):
    """The settings that validated best on Beauty."""

    # training
    batch_size: int = 64  # users per optimizer step where tokens_per_batch is 0
    tokens_per_batch: int = 400  # positions per optimizer step, padding included; 0: use batch_size
    lr: float = 2e-3  # peak learning rate, after one epoch of warm-up; then half a cosine down to 0
    num_epochs: int = 16  # maximum number of epochs
    validate_every: int = 2  # epochs between validations
    choose_by: str = "val.NDCG@10"  # validation metric that chooses the epoch; val_unseen.NDCG@10: history removed
    # data
    max_len: int = 50  # most recent items kept per user, the validation and the test target included
    # model
    width: int = 64  # width of the item embeddings
    hidden: int = 64  # width of the attention blocks; item embeddings of another width are projected
    n_layers: int = 2  # attention blocks
    n_heads: int = 2  # attention heads
    dropout: float = 0.5  # dropout on the item embeddings and in the blocks
    # training
    wd: float = 0.0  # AdamW weight decay
    n_negatives: int = 2048  # items sampled per step for a sampled softmax; 0: full softmax


def parse_args(argv: list[str] | None = None) -> SequenceSettings:
    """Parse a command line; an invalid one ends the program with one line and exit status 2."""
    program = "python -m preprocess.pretrain_sasrec"
    parser = SettingsParser(SequenceSettings, program, "Pre-train SASRec.", validate_settings, takes_config=True)
    return parser.parse(argv)[0]


def validate_settings(settings: SequenceSettings) -> list[str]:
    """Return all problems of the settings, one phrase per problem."""
    problems = validate_pretrain_settings(settings) + check_numbers(
        settings,
        at_least_1=("width", "hidden", "n_heads"),
        at_least_0=("wd", "n_negatives", "tokens_per_batch"),
        fraction=("dropout",),
    )
    problems += check_ranges(settings, n_layers=(1, MAX_LAYERS)) + check_criterion(settings)
    if not 4 <= settings.max_len <= MAX_COUNT:
        problems.append(
            f"--max_len {settings.max_len}: from 4 (two targets, and two items to learn from) to {MAX_COUNT}"
        )
    if not problems and settings.hidden % settings.n_heads:
        problems.append(f"--hidden {settings.hidden}: a multiple of --n_heads {settings.n_heads}")
    return problems
