"""Stop gracefully on SIGINT, SIGTERM and SIGHUP."""

import signal
from pathlib import Path
from types import FrameType

SIGNAL_STATUS = 128  # plus the number of a signal: exit status of a program that the signal ends
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal closes


class StopTraining(Exception):  # noqa: N818 - no error: how a run ends early
    """A run that ends before its end, with its exit status.

    Args:
        reason: one line for the log.
        status: exit status of the program.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class SignalFlag:
    """Note the signal that asks a run to stop, which it does where a checkpoint can be saved."""

    def __init__(self) -> None:
        self.number = 0  # of the newest signal; 0: none has come

    @property
    def exit_status(self) -> int:
        """Return the exit status of a program that this signal ends; 0 without a signal."""
        return SIGNAL_STATUS + self.number if self.number else 0

    def install(self) -> None:
        """Handle the signals from now on. Under `nohup` SIGHUP stays ignored."""
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number


def restore_default_signals() -> None:
    """Let signals end the program at once again, as before any `SignalFlag.install`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def stop_for_signal(number: int, folder: Path) -> StopTraining:
    """Return the StopTraining to raise for a signal, once a checkpoint is saved in `folder`."""
    name = signal.Signals(number).name
    return StopTraining(f"{name}: checkpoint saved in {folder}, resume with --resume", SIGNAL_STATUS + number)
