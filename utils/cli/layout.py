"""Text that fits a terminal of 100 columns: aligned tables, times in words, shortened and wrapped lines."""

import math
import shlex
from collections.abc import Sequence

SCREEN_WIDTH = 100  # columns that every line of a program fits
LOG_WIDTH = 79  # columns of a line of a log, which stands behind the time there


def format_duration(seconds: float) -> str:
    """Return a time in its two largest units, such as 5 h 10 min; "?" where it is unknown (NaN)."""
    if not math.isfinite(seconds):
        return "?"
    seconds = round(seconds)
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (smaller, part) in zip(units, units[1:], strict=False):
        if seconds >= size:
            count, rest = divmod(seconds, size)
            return f"{count} {name} {rest // part} {smaller}"
    return f"{seconds} s"


def shorten(text: str, width: int) -> str:
    """Return the text, its middle replaced by … where it is longer than `width` characters."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def align(rows: Sequence[Sequence[str]], width: int = LOG_WIDTH) -> list[str]:
    """Return a line per row, the first column on the left, the others on the right.

    Args:
        rows: cells; all rows have as many.
        width: columns at most; the first column is shortened to it.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], width - sum(2 + other for other in widths[1:]))
    lines = []
    for first, *others in rows:
        cells = [shorten(first, widths[0]).ljust(widths[0])]
        cells += [cell.rjust(other) for cell, other in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def wrap_command(words: Sequence[str], width: int = LOG_WIDTH) -> str:
    """Return a command line that can be copied into a shell, continued by a backslash where it is too long."""
    lines = [""]
    for word in map(shlex.quote, words):
        if lines[-1] and len(lines[-1]) + len(word) + 3 > width:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)
