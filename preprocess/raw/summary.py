"""Tell what a program has read, passed over and written: one aligned table, warnings, and the next command."""

import shlex
import textwrap
from dataclasses import dataclass, field

import numpy as np

from preprocess.raw.dataset_writer import DatasetSettings
from preprocess.raw.interactions import RawInteractions
from utils.cli.layout import SCREEN_WIDTH

FEW_MATCHED = 0.1  # share of the items below which a side input deserves a warning
MANY_TIES = 0.2  # share of neighbouring interactions with equal times from which their order deserves a warning


@dataclass
class Summary:
    """Rows of the table, in the order in which they are added, and warnings."""

    title: str = ""  # line above the table
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)  # lines per reason

    def add(self, what: str, count: int | str, remark: str = "") -> None:
        """Add a row: what was counted, its number (or short text, such as "3 of 7"), and a remark."""
        self.rows.append((what, f"{count:,}" if isinstance(count, int) else count, remark))

    def add_passed_over(self, reason: str, count: int, remark: str = "") -> None:
        """Add a row about lines that were passed over, unless there was none."""
        if count:
            self.passed_over[reason] = count
            self.add(f"passed over: {reason}", count, remark)

    def add_matched(self, what: str, matched: int, total: int, remark: str = "") -> None:
        """Add a row about the items for which a side input has something, and a warning if they are few."""
        self.add(what, f"{matched:,} of {total:,}", remark)
        if matched < FEW_MATCHED * total:
            self.warn(f"{what}: only {matched:,} of {total:,} items")

    def warn(self, message: str) -> None:
        """Add a sentence that stands below the table."""
        self.warnings.append(message)

    def render(self, next_command: str = "") -> str:
        """Return the table, the warnings and the next command, in lines of at most SCREEN_WIDTH columns."""
        labels = max((len(what) for what, _, _ in self.rows), default=0)
        counts = max((len(count) for _, count, _ in self.rows), default=0)
        lines = [self.title] if self.title else []
        for what, count, remark in self.rows:
            start = f"{what:<{labels}}  {count:>{counts}}"
            indents = {"initial_indent": start + "  ", "subsequent_indent": " " * (len(start) + 2)}
            lines += textwrap.wrap(remark, SCREEN_WIDTH, **indents) or [start]
        for warning in self.warnings:
            lines += textwrap.wrap(f"warning: {warning}", SCREEN_WIDTH, subsequent_indent=" " * len("warning: "))
        if next_command:
            lines.append(f"next: {next_command}")
        return "\n".join(lines)


def add_interactions(
    summary: Summary, kept: RawInteractions, counts: dict, k_core: int, order_of_ties: str = "that of the lines"
) -> None:
    """Add what `deduplicate_and_k_core` has removed and left, and how many neighbouring interactions tie in time.

    Args:
        summary: the table.
        kept: the interactions that are left.
        counts: what `deduplicate_and_k_core` returned beside them.
        k_core: least number of interactions of a user or item.
        order_of_ties: what decides the order of a user's interactions at equal times.
    """
    removed = counts["reviews"] - counts["repeated"] - len(kept)
    summary.add("repeated", counts["repeated"], "same user, item and time as an earlier line")
    summary.add("removed by the k-core", removed, f"users and items with less than {k_core}: --k_core {k_core}")
    summary.add("users", len(kept.user_ids))
    summary.add("items", len(kept.item_ids))
    summary.add("interactions", len(kept))
    share = tied_share(kept)
    summary.add("equal times", f"{share:.1%}", "of a user's neighbouring interactions")
    if share > MANY_TIES:
        summary.warn(
            f"{share:.0%} of a user's neighbouring interactions have the same time; their order is {order_of_ties}"
        )


def next_command(program: str, settings: DatasetSettings) -> str:
    """Return the command that runs a program on the dataset that was written."""
    return f"python -m {program} {dataset_flags(settings)}"


def dataset_flags(settings: DatasetSettings) -> str:
    """Return the flags that name a dataset, of any settings with its name and its folder."""
    folder = f" --data_dir {shlex.quote(settings.data_dir)}" if settings.data_dir != DatasetSettings.data_dir else ""
    return f"--dataset {shlex.quote(settings.dataset)}{folder}"


def tied_share(interactions: RawInteractions) -> float:
    """Return the share of neighbouring interactions of a user that have the same time."""
    order = np.lexsort((interactions.time, interactions.user))
    same_user = np.diff(interactions.user[order]) == 0
    same_time = np.diff(interactions.time[order]) == 0
    return float(np.sum(same_user & same_time) / max(np.sum(same_user), 1))
