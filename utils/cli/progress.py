"""Signs of life of work that takes long: a bar on a terminal, elsewhere a line now and then on standard error."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from utils.cli.layout import SCREEN_WIDTH, format_duration, shorten

T = TypeVar("T")
FIRST_LINE_SECONDS = 3.0  # work that is done sooner prints no line
LINE_SECONDS = 60.0  # between lines


class ProgressBar:
    """Show how much of some work is done.

    Args:
        title: what is done.
        total: how many units there are; None if unknown.
        unit: what is counted, in the plural.
        enabled: False: show nothing, as on every rank but 0.
        lines: print lines where there is no terminal.
    """

    def __init__(self, title: str, total: int | None, unit: str, enabled: bool = True, lines: bool = True) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.done = 0
        # None: tqdm disables the bar unless standard error is a terminal
        self.bar = tqdm(desc=title, total=total, unit=f" {unit}", leave=False, disable=None if enabled else True)
        self.is_shown = not self.bar.disable
        self._prints = enabled and lines and self.bar.disable
        self._started = time.monotonic()
        self._next_line = self._started + FIRST_LINE_SECONDS

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def update(self, n: int = 1) -> None:
        """Count n more units."""
        self.bar.update(n)
        self.done += n
        if self._prints and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            _print(self.describe(time.monotonic() - self._started))

    def describe(self, seconds: float) -> str:
        """Return the line after so many seconds of work."""
        if not self.total:
            return f"{self.title}: {self.done:,} {self.unit}"
        left = format_duration(seconds * (self.total - self.done) / max(self.done, 1))
        return f"{self.title}: {self.done:,} of {self.total:,} {self.unit}, {left} left"


def track(items: Iterable[T], title: str, unit: str, total: int | None = None, enabled: bool = True) -> Iterator[T]:
    """Yield the items, and show how many are done; the arguments are those of `ProgressBar`."""
    with ProgressBar(title, total, unit, enabled) as bar:
        for item in items:
            yield item
            bar.update()


@contextlib.contextmanager
def announce(title: str) -> Iterator[None]:
    """Say what the block is doing, once it has taken some seconds; for work that has no parts to count."""
    timer = threading.Timer(FIRST_LINE_SECONDS, _print, [f"{title} …"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print(text: str) -> None:
    """Print a line on standard error; one that is closed or full is no error."""
    with contextlib.suppress(OSError, ValueError):
        print(shorten(text, SCREEN_WIDTH), file=sys.stderr, flush=True)
