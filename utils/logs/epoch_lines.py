"""The line of a validated epoch in the log, and the header above these lines."""

from utils.cli.layout import format_duration
from utils.evaluation.metrics import HEADLINE_METRICS, format_metric
from utils.logs.records import EpochRecord

LOSS_WIDTH = 8
VALUE_WIDTH = 6  # of a metric, with its four decimals
TIME_WIDTH = 12
BEST = " *"  # behind the line of an epoch that is the best so far


def _columns(choose_by: str) -> list[str]:
    """Return the headings of the metrics: the headline metrics, and the one that chooses the epoch if it is another."""
    split, _, name = choose_by.partition(".")
    if split == "val" and name in HEADLINE_METRICS:
        return list(HEADLINE_METRICS)
    return [*HEADLINE_METRICS, f"unseen {name}" if split == "val_unseen" else name]


def _epoch_width(num_epochs: int) -> int:
    return max(2 * len(str(num_epochs)) + 1, len("epoch"))


def epoch_header(num_epochs: int, choose_by: str) -> str:
    """Return the header of a run's epochs.

    Args:
        num_epochs: maximum number of epochs.
        choose_by: validation metric that chooses the best epoch, such as val_unseen.NDCG@10.
    """
    metrics = "".join(f" {name:>{VALUE_WIDTH}}" for name in _columns(choose_by))
    return f"{'epoch':>{_epoch_width(num_epochs)}}{'loss':>{LOSS_WIDTH}}{metrics}{'left':>{TIME_WIDTH}}"


def epoch_line(record: EpochRecord, num_epochs: int, choose_by: str, seconds_left: float, is_best: bool) -> str:
    """Return the line of an epoch: its number from 1, loss in nats, validation, and the time left at most.

    Args:
        record: the epoch.
        num_epochs: maximum number of epochs.
        choose_by: validation metric that chooses the best epoch.
        seconds_left: until the last epoch is validated.
        is_best: the epoch is the best so far.
    """
    values = [format_metric(record.val, name) for name in HEADLINE_METRICS]
    values.append(f"{record.score(choose_by):.4f}")
    metrics = "".join(
        f" {value:>{max(len(name), VALUE_WIDTH)}}" for name, value in zip(_columns(choose_by), values, strict=False)
    )
    epoch = f"{record.epoch + 1}/{num_epochs}".rjust(_epoch_width(num_epochs))
    left = format_duration(seconds_left)
    return f"{epoch}{record.train_loss:>{LOSS_WIDTH}.4f}{metrics}{left:>{TIME_WIDTH}}{BEST if is_best else ''}"
