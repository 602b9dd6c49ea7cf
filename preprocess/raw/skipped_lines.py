"""Lines of a raw file that are passed over: which, why, and how many are too many."""

import math
from collections import Counter
from pathlib import Path

LEAST_ALLOWED = 3  # lines that may be passed over in a file of any length, unless none may
HOPELESS = 1000  # a file is read no further if none of so many lines at its beginning can be used


class OddLineError(ValueError):
    """A line that cannot be used."""

    def __init__(self, path: Path, where: str, reason: str, problem: str = "", advice: str = "") -> None:
        """Describe it.

        Args:
            path: its file.
            where: its position there, as "line 7".
            reason: why it cannot be used, in words that all such lines share.
            problem: the same with the line's own value; empty: the reason.
            advice: what to do about it.
        """
        self.position = int(where.split()[-1])
        self.reason = reason
        self.problem = f"{where}: {problem or reason}"
        super().__init__(f"{path}: {self.problem}; {advice or 'remove the line or correct it'}")


class SkippedLines:
    """The lines of one file that are passed over, and the share of its lines up to which that may be."""

    def __init__(self, path: Path, kind: str = "line", max_share: float = 0.0) -> None:
        """Begin without any.

        Args:
            path: the file.
            kind: what its lines are, for `skipped.tsv`.
            max_share: largest share of the lines; with 0, the first such line is an error.
        """
        self._path = path
        self._kind = kind
        self._max_share = max_share
        self._first: OddLineError | None = None
        self._lines: list[tuple[int, str]] = []  # position and reason
        self.n_lines = 0  # of the whole file; its reader sets it

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, error: OddLineError) -> None:
        """Pass over a line.

        Raises:
            OddLineError: no line may be passed over.
            ValueError: not one line of the file can be used, as far as it has been read.
        """
        if not self._max_share:
            raise error
        self._first = self._first or error
        self._lines.append((error.position, error.reason))
        if len(self) == error.position == HOPELESS:
            self.n_lines = HOPELESS
            self.check()

    def check(self) -> None:
        """Check that no more lines were passed over than may be, and not all of them.

        Raises:
            ValueError: there were more; says how many, why, and what the first one was.
        """
        if not self._lines:
            return
        is_all = len(self) >= self.n_lines
        if len(self) <= max(self._max_share * self.n_lines, LEAST_ALLOWED) and not is_all:
            return
        reasons = Counter(reason for _, reason in self._lines)
        counted = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
        share = math.ceil(1000 * len(self) / self.n_lines) / 1000
        advice = f"correct them, or allow as many with --max_skipped {share:g}"
        if is_all:
            advice = "take a release file, as datasets/README.md lists them"
        raise ValueError(
            f"{self._path}: {self._first.problem}; {len(self):,} of {self.n_lines:,} lines cannot be used "
            f"({counted}); {advice}"
        )

    def counts(self) -> dict[str, int]:
        """Return how many lines were passed over by reason, the most frequent one first."""
        return dict(Counter(reason for reason, _, _ in self.rows()).most_common())

    def rows(self) -> list[tuple[str, int, str]]:
        """Return the entries of `skipped.tsv`: reason, line, and no ASIN."""
        return [(f"{self._kind}: {reason}", position, "") for position, reason in self._lines]
