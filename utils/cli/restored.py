"""Settings that no command line has parsed: from presets, checkpoints and logs, and how two of them differ."""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Literal, TypeVar, get_args, get_origin

S = TypeVar("S")


def settings_from_dict(kind: type[S], values: dict, source: str | Path) -> S:
    """Return the settings with these values, and the defaults of all others.

    Args:
        kind: the dataclass of settings.
        values: values by name of the setting.
        source: the file that they come from, for error messages.

    Raises:
        ValueError: an unknown setting or a value of another type; names `source`.
    """
    types = {field.name: field.type for field in fields(kind)}
    problems = [f"unknown setting {name!r:.60}; --help lists them" for name in values if name not in types]
    if not problems:
        settings = kind(**values)
        for name, value in vars(settings).items():
            expected = _type_problem(types[name], value)
            if expected:
                problems.append(f"{name} is {value!r:.60}, expected {expected}")
    if problems:
        raise ValueError(f"{source}: {'; '.join(problems)}")
    return settings


def _type_problem(kind: type, value: object) -> str:
    """Return what a field of this type expects if the value is something else, "" if it is right."""
    if get_origin(kind) is Literal:
        valid = value in get_args(kind)
        expected = f"one of {', '.join(get_args(kind))}"
    elif get_origin(kind) is tuple:
        valid = isinstance(value, tuple) and all(isinstance(word, str) for word in value)
        expected = "a tuple of strings"
    elif kind is float:
        valid = type(value) is float or type(value) is int and abs(value) < 2**63
        expected = "a number"
    else:
        valid = type(value) is kind  # True is no int
        expected = {bool: "True or False", int: "an integer", str: "a string"}[kind]
    return "" if valid else expected


def restore_settings(
    kind: type[S], recorded: dict, source: str | Path, validate: Callable[[S], list[str]] = lambda settings: []
) -> S:
    """Return the settings that a checkpoint or a log recorded; entries that are no settings are ignored.

    Args:
        kind: the dataclass of settings.
        recorded: values by name, lists for tuples, as `fingerprint` returns them.
        source: the file that holds them, for error messages.
        validate: returns all problems of the settings, one phrase each.

    Raises:
        ValueError: a value of another type, or invalid settings; names `source`.
    """
    values = {}
    for field in fields(kind):
        if field.name in recorded:
            value = recorded[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    settings = settings_from_dict(kind, values, source)
    problems = validate(settings)
    if problems:
        raise ValueError(f"{source}: invalid recorded settings: {'; '.join(problems)}; put back a copy")
    return settings


def fingerprint(settings: object, ignored: set[str]) -> dict:
    """Return the settings that a result depends on, by name, with lists for tuples as in JSON.

    Args:
        settings: a dataclass of settings.
        ignored: the names of those that change no result.
    """
    kept = {}
    for name, value in asdict(settings).items():
        if name not in ignored:
            kept[name] = list(value) if isinstance(value, tuple) else value
    return kept


def diff_settings(theirs: dict, ours: dict) -> list[str]:
    """Return the differences between two fingerprints, one phrase each, by name."""
    differences = []
    for name in sorted(set(ours) | set(theirs)):
        if ours.get(name) != theirs.get(name):
            differences.append(f"{name} was {theirs.get(name)}, is now {ours.get(name)}")
    return differences
