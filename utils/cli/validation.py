"""Validation of settings: each function returns the problems that it finds, one phrase each."""

import re
from pathlib import Path

MAX_COUNT = 2**31 - 1
MAX_NAME_BYTES = 150  # leaves room for the endings of file names
SEED_RANGE = (0, 2**63 - 1)
MAX_LAYERS = 2**10
CRITERION = re.compile(r"(val|val_unseen)\.(Precision|Recall|MRR|MAP|NDCG)@(5|10|20)")  # a metric of a validation


def check_numbers(settings: object, **bounds: tuple[str, ...]) -> list[str]:
    """Return the settings whose number is out of its bounds.

    Args:
        settings: a dataclass of settings.
        **bounds: names of settings under positive (above 0), at_least_0, at_least_1 or fraction (0 or more, below 1).
    """
    rules = {
        "at_least_1": (lambda value: 1 <= value <= MAX_COUNT, f"at least 1, at most {MAX_COUNT}"),
        "positive": (lambda value: 0 < value < float("inf"), "above 0"),
        "at_least_0": (lambda value: 0 <= value <= MAX_COUNT, f"0 or above, at most {MAX_COUNT}"),
        "fraction": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    }
    problems = []
    for rule, names in bounds.items():
        is_valid, expected = rules[rule]
        for name in names:
            value = getattr(settings, name)
            if not is_valid(value):
                problems.append(f"--{name} {value}: {expected}")
    return problems


def check_ranges(settings: object, **ranges: tuple[int, int]) -> list[str]:
    """Return the settings that are outside their range.

    Args:
        settings: a dataclass of settings.
        **ranges: least and greatest valid value by name of the setting.
    """
    problems = []
    for name, (least, greatest) in ranges.items():
        value = getattr(settings, name)
        if not least <= value <= greatest:
            problems.append(f"--{name} {value}: from {least} to {greatest}")
    return problems


def check_max_len(settings: object) -> list[str]:
    """Return whether `max_len` leaves no history beside the two targets, or is beyond any array."""
    if 3 <= settings.max_len <= MAX_COUNT:
        return []
    return [f"--max_len {settings.max_len}: from 3 (two targets and a history) to {MAX_COUNT}"]


def check_criterion(settings: object) -> list[str]:
    """Return whether `choose_by` is no metric of a validation."""
    if CRITERION.fullmatch(settings.choose_by):
        return []
    return [f"--choose_by {settings.choose_by}: val or val_unseen, and one of its metrics, such as val_unseen.NDCG@10"]


def check_names(settings: object, *names: str) -> list[str]:
    """Return the settings, of these names, that become part of a file name and can't."""
    problems = []
    for name in names:
        value = getattr(settings, name)
        is_one_part = value not in ("", "..") and Path(value).name == value
        if not is_one_part or not value.isprintable() or len(value.encode()) > MAX_NAME_BYTES:
            problems.append(f"--{name} {value!r}: a name without folders, of at most {MAX_NAME_BYTES} bytes")
    return problems
