"""Command-line flags from a dataclass of settings, and how a user's mistake is reported."""

from pathlib import Path

MAX_COUNT, MAX_NAME_BYTES = 2**31 - 1, 150  # of a number of something; bytes, to which endings of files are added
SEED_RANGE, MAX_LAYERS = (0, 2**63 - 1), 2**10  # from and to; layers


def check_numbers(settings: object, **bounds: tuple[str, ...]) -> list[str]:
    """What is wrong with the settings' numbers, a phrase each.

    Args:
        bounds: positive (above 0), at_least_0, at_least_1, share (from 0 to below 1): names of settings.
    """
    most = f", at most {MAX_COUNT}"
    rules = {
        "at_least_1": (lambda value: 1 <= value <= MAX_COUNT, "at least 1" + most),
        "positive": (lambda value: 0 < value < float("inf"), "above 0"),
        "at_least_0": (lambda value: 0 <= value <= MAX_COUNT, "0 or above" + most),
        "share": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    }
    return [
        f"--{name} {getattr(settings, name)}: {rules[rule][1]}"
        for rule, names in bounds.items()
        for name in names
        if not rules[rule][0](getattr(settings, name))
    ]


def check_ranges(settings: object, **ranges: tuple[int, int]) -> list[str]:
    """What is wrong with settings that go from a least to a greatest whole number, a phrase each."""
    return [
        f"--{name} {getattr(settings, name)}: from {least} to {most}"
        for name, (least, most) in ranges.items()
        if not least <= getattr(settings, name) <= most
    ]


def check_max_len(settings: object) -> list[str]:
    """What is wrong with the length of the histories that are read, a phrase at most."""
    good = 3 <= settings.max_len <= MAX_COUNT
    return [] if good else [f"--max_len {settings.max_len}: from 3 (two targets and a history) to {MAX_COUNT}"]


def check_choices_and_names(settings: object, choices: dict[str, tuple[str, ...]], names: tuple[str, ...]) -> list[str]:
    """What is wrong with settings that take one of a few words (`choices`) or that become file names (`names`)."""
    problems = [
        f"--{name} {getattr(settings, name)}: one of {', '.join(words)}"
        for name, words in choices.items()
        if getattr(settings, name) not in words
    ]
    for name in names:
        value = getattr(settings, name)
        printable = value.isprintable() and len(value.encode()) <= MAX_NAME_BYTES
        if not value or value == ".." or Path(value).name != value or not printable:
            problems.append(f"--{name} {value!r}: a name without folders, of at most {MAX_NAME_BYTES} bytes")
    return problems
