"""How a run ends before its end."""

import signal


class StopTraining(Exception):
    """The run cannot or should not go on; carries the exit status."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


def restore_default_signals() -> None:
    """SIGINT, SIGTERM and SIGHUP end the program at once again, as before any `SignalFlag.listen`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


class SignalFlag:
    """SIGINT, SIGTERM and SIGHUP, of a terminal that closes, are noted: the program stops where its state can be saved.

    Under `nohup` SIGHUP stays ignored.
    """

    def __init__(self) -> None:
        self.number = 0

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number, _frame) -> None:
        self.number = number

    def check(self, folder) -> None:
        """Raise StopTraining if a signal has come; the state is in `folder`."""
        if self.number:
            raise stop_for_signal(self.number, folder)


def stop_for_signal(number: int, folder) -> StopTraining:
    """How a run ends by a signal, its state in `folder`."""
    name = signal.Signals(number).name
    return StopTraining(f"{name}: state saved in {folder}, go on with --resume", 128 + number)
