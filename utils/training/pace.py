"""The speed of a training and the time that it will still take."""

import time
from dataclasses import dataclass

from utils.cli.layout import format_duration


class LineTimer:
    """Decide when the next line of progress is due.

    Args:
        seconds: between two lines.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Return whether the time has passed, and count it from now if it has."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


@dataclass(frozen=True)
class Pace:
    """Where a training stands."""

    epoch: int  # counted from 0
    num_epochs: int
    step: int  # of the epoch, done
    n_steps: int
    samples: int  # of the epoch, done
    n_samples: int
    samples_per_s: float  # since the last validation
    validation_seconds: float  # per epoch; 0 as long as there was none

    @property
    def epoch_seconds_left(self) -> float:
        """Seconds of training until the end of the epoch, without its validation."""
        return (self.n_samples - self.samples) / self.samples_per_s

    @property
    def run_seconds_left(self) -> float:
        """Seconds until the last epoch is validated; early stopping may end the run before."""
        epochs = self.num_epochs - self.epoch
        training = self.epoch_seconds_left + (epochs - 1) * self.n_samples / self.samples_per_s
        return training + epochs * self.validation_seconds

    def describe(self, loss: float) -> str:
        """Return a line about it, with the mean loss (nats) so far."""
        return (
            f"epoch {self.epoch + 1}/{self.num_epochs}, step {self.step}/{self.n_steps}, loss {loss:.4f}, "
            f"{self.samples_per_s:,.0f} samples/s, left: epoch {format_duration(self.epoch_seconds_left)}, "
            f"run {format_duration(self.run_seconds_left)}"
        )
