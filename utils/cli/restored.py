"""Command-line flags from a dataclass of settings, and how a user's mistake is reported."""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar, get_origin

S = TypeVar("S")


def _type_problem(kind: type, value: object) -> str:
    """What a setting takes, if a value is something else."""
    if get_origin(kind) is tuple:
        good = isinstance(value, tuple) and all(isinstance(word, str) for word in value)
        return "" if good else "a tuple of words"
    if kind is float:
        return "" if type(value) is float or type(value) is int and abs(value) < 2**63 else "a number"
    return "" if type(value) is kind else {bool: "True or False", int: "a whole number", str: "a text in quotes"}[kind]


def settings_from_dict(kind: type[S], values: dict, where: str | Path) -> S:
    """Settings from values that no command line has parsed.

    Raises:
        ValueError: naming `where`, and what is no setting, or of another type than its setting.
    """
    types = {field.name: field.type for field in fields(kind)}
    problems = [f"{name!r:.60} is no setting; --help lists them" for name in values if name not in types]
    settings = None if problems else kind(**values)
    for name, value in vars(settings).items() if settings else ():
        if what := _type_problem(types[name], value):
            problems.append(f"{name} is {value!r:.60}, {what} is expected")
    if problems:
        raise ValueError(f"{where}: {'; '.join(problems)}")
    return settings


def diff_settings(theirs: dict, ours: dict) -> list[str]:
    """What differs between two `fingerprint`s, a phrase each."""
    return [
        f"{name} was {theirs.get(name)}, is now {ours.get(name)}"
        for name in sorted(set(ours) | set(theirs))
        if ours.get(name) != theirs.get(name)
    ]


def fingerprint(settings: object, free: set[str]) -> dict:
    """The settings that a training state depends on: all but the `free` ones."""
    kept = {name: value for name, value in asdict(settings).items() if name not in free}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


def restore_settings(
    kind: type[S], recorded: dict, where: str | Path, check: Callable[[S], list[str]] = lambda settings: []
) -> S:
    """The settings in what `fingerprint` or a log recorded; what else is in it is passed over.

    Args:
        where: the file that holds them; check: the settings to everything wrong with them.

    Raises:
        ValueError: naming the file and what in it can't be a run's.
    """
    known = {field.name: recorded[field.name] for field in fields(kind) if field.name in recorded}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    settings = settings_from_dict(kind, values, where)
    if problems := check(settings):
        raise ValueError(f"{where}: recorded settings that no run has: {'; '.join(problems)}; put back a copy")
    return settings
