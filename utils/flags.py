"""Command-line flags from a dataclass of settings, and how a user's mistake is reported."""

import argparse
import errno
import inspect
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import NoReturn, TypeVar, get_origin

from llama.files import FULL, Unwritten
from utils.terminal import drop_output, prepare_output

S = TypeVar("S")
REMEDIES = {  # of what the system says about a file
    errno.EACCES: "allow this user to read it, or to write there",
    errno.EISDIR: "a folder where a file belongs: remove it, or give the file's own path",
    errno.ENOTDIR: "a file where a folder belongs: remove it, or give the folder's own path",
    errno.ENOENT: "give the path of a file that is there",
}
LARGEST, LONGEST_NAME = 2**31 - 1, 150  # of a number of something; bytes, to which endings of files are added
SEEDS, DEEPEST = (0, 2**63 - 1), 2**10  # from and to; layers
ALONE_AFTER = 3.0  # seconds after which a mistake must be this process's alone


def complain(problem: object) -> int:
    """Print a user's mistake as one line on standard error and return the exit status for it, 2; of a full disk, 1.

    Nothing is said where whoever reads standard output has gone.
    """
    if isinstance(problem, BrokenPipeError):
        drop_output()
        return 128 + signal.SIGPIPE
    if isinstance(problem, OSError) and problem.errno in FULL and not problem.filename:  # files say so: `Unwritten`
        drop_output()
        problem = Unwritten(f"standard output: {problem.strerror}; make room there, or send it elsewhere")
    if os.environ.get("RANK", "0") != "0":  # the first of several processes says the same and ends the job
        time.sleep(ALONE_AFTER)
    if isinstance(problem, OSError) and problem.filename and problem.errno in REMEDIES:
        problem = f"{problem.filename}: {problem.strerror}; {REMEDIES[problem.errno]}"
    print("error:", " ".join(str(problem).split()), file=sys.stderr)
    return 1 if isinstance(problem, Unwritten) else 2


def attempt(work: Callable[..., object], *args) -> int:
    """Do what a program is for, `work(*args)`; returns the exit status, a user's mistake told as by `complain`."""
    prepare_output()
    try:
        work(*args)
        sys.stdout.flush()
    except (ValueError, OSError) as mistake:
        return complain(mistake)
    except KeyboardInterrupt:
        print("SIGINT: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        sys.exit(complain(message))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _add_flag(parser: argparse.ArgumentParser, field, comment: str) -> None:
    flag, comment = f"--{field.name}", comment.replace("%", "%%")
    if field.type is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=comment)
        return
    kind = _names if get_origin(field.type) is tuple else field.type
    parser.add_argument(flag, type=kind, metavar=kind.__name__.strip("_").upper(), help=f"{comment} ({field.default})")


def parse_settings(
    kind: type[S],
    argv: list[str] | None,
    program: str,
    description: str,
    check: Callable[[S], list[str]],
    presets: dict[str, dict] | None = None,
    preset_of: Callable[[dict], str] | None = None,
) -> S:
    """Settings of a command line: the defaults, then the preset's, then whatever flags say.

    A mistake ends the program with one line and exit status 2.

    Args:
        kind: a dataclass with a comment behind every field; booleans become --name and --no-name.
        argv: the command line (None: the program's own); program, description: for --help.
        check: the settings to everything wrong with them.
        presets: name to the fields that it changes; without any there is no --preset.
        preset_of: the flags given, to the preset that is meant without --preset.
    """
    parser = Parser(prog=program, description=description, allow_abbrev=False)
    if presets:
        parser.add_argument("--preset", help=", ".join(presets))
    source = "".join(inspect.getsource(owner) for owner in kind.__mro__[:-1])
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))
    for field in fields(kind):
        _add_flag(parser, field, comments[field.name])
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        switches = sorted(field.name for field in fields(kind) if field.type is bool)
        hint = f"{program} --help lists the flags"
        if not unknown[0].startswith("-"):
            hint = f"switches take no value: --NAME or --no-NAME ({', '.join(switches)})"
        parser.error(f"unknown argument {' '.join(unknown)}: {hint}")
    given = {name: value for name, value in vars(known).items() if value is not None and name != "preset"}
    if presets:
        preset = known.preset or preset_of(given)
        if preset not in presets:
            parser.error(f"unknown preset {preset}: one of {', '.join(presets)}")
        given = presets[preset] | given
    try:
        settings = typed_settings(kind, given, Path(inspect.getfile(kind)).name)
    except ValueError as mistake:
        parser.error(str(mistake))
    problems = check(settings)
    if problems:
        parser.error("; ".join(problems))
    return settings


def _expected(kind: type, value: object) -> str:
    """What a setting takes, if a value is something else."""
    if get_origin(kind) is tuple:
        good = isinstance(value, tuple) and all(isinstance(word, str) for word in value)
        return "" if good else "a tuple of words"
    if kind is float:
        return "" if type(value) is float or type(value) is int and abs(value) < 2**63 else "a number"
    return "" if type(value) is kind else {bool: "True or False", int: "a whole number", str: "a text in quotes"}[kind]


def typed_settings(kind: type[S], values: dict, where: str | Path) -> S:
    """Settings from values that no command line has parsed.

    Raises:
        ValueError: naming `where`, and what is no setting, or of another type than its setting.
    """
    types = {field.name: field.type for field in fields(kind)}
    problems = [f"{name!r:.60} is no setting; --help lists them" for name in values if name not in types]
    settings = None if problems else kind(**values)
    for name, value in vars(settings).items() if settings else ():
        if what := _expected(types[name], value):
            problems.append(f"{name} is {value!r:.60}, {what} is expected")
    if problems:
        raise ValueError(f"{where}: {'; '.join(problems)}")
    return settings


def check_numbers(settings: object, **bounds: tuple[str, ...]) -> list[str]:
    """What is wrong with the settings' numbers, a phrase each.

    Args:
        bounds: positive (above 0), at_least_0, at_least_1, share (from 0 to below 1): names of settings.
    """
    most = f", at most {LARGEST}"
    rules = {
        "at_least_1": (lambda value: 1 <= value <= LARGEST, "at least 1" + most),
        "positive": (lambda value: 0 < value < float("inf"), "above 0"),
        "at_least_0": (lambda value: 0 <= value <= LARGEST, "0 or above" + most),
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
    good = 3 <= settings.max_len <= LARGEST
    return [] if good else [f"--max_len {settings.max_len}: from 3 (two targets and a history) to {LARGEST}"]


def check_words(settings: object, choices: dict[str, tuple[str, ...]], names: tuple[str, ...]) -> list[str]:
    """What is wrong with settings that take one of a few words (`choices`) or that become file names (`names`)."""
    problems = [
        f"--{name} {getattr(settings, name)}: one of {', '.join(words)}"
        for name, words in choices.items()
        if getattr(settings, name) not in words
    ]
    for name in names:
        value = getattr(settings, name)
        printable = value.isprintable() and len(value.encode()) <= LONGEST_NAME
        if not value or value == ".." or Path(value).name != value or not printable:
            problems.append(f"--{name} {value!r}: a name without folders, of at most {LONGEST_NAME} bytes")
    return problems


def flag(name: str, value: object) -> str:
    """What gives a setting this value on the command line, as one word."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={','.join(map(str, value)) if isinstance(value, (tuple, list)) else value}"


def differences(theirs: dict, ours: dict) -> list[str]:
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


def recorded_settings(
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
    settings = typed_settings(kind, values, where)
    if problems := check(settings):
        raise ValueError(f"{where}: recorded settings that no run has: {'; '.join(problems)}; put back a copy")
    return settings
