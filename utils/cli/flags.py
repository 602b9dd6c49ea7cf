"""Command-line flags from a dataclass of settings, and how a user's mistake is reported."""

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import NoReturn, TypeVar, get_origin

from utils.cli.errors import report_user_error
from utils.cli.restored import settings_from_dict

S = TypeVar("S")


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        sys.exit(report_user_error(message))


def _parse_name_list(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _add_flag(parser: argparse.ArgumentParser, field, comment: str) -> None:
    flag, comment = f"--{field.name}", comment.replace("%", "%%")
    if field.type is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=comment)
        return
    kind = _parse_name_list if get_origin(field.type) is tuple else field.type
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
        settings = settings_from_dict(kind, given, Path(inspect.getfile(kind)).name)
    except ValueError as mistake:
        parser.error(str(mistake))
    problems = check(settings)
    if problems:
        parser.error("; ".join(problems))
    return settings


def format_flag(name: str, value: object) -> str:
    """What gives a setting this value on the command line, as one word."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={','.join(map(str, value)) if isinstance(value, (tuple, list)) else value}"
