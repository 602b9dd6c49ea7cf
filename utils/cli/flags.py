"""A command line from a dataclass of settings: flags, help and presets."""

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from typing import Generic, Literal, NoReturn, TypeVar, get_args, get_origin

from utils.cli.config_file import read_config
from utils.cli.errors import report_user_error
from utils.cli.layout import SCREEN_WIDTH
from utils.cli.restored import settings_from_dict

S = TypeVar("S")
CONFIG_HELP = "start from the settings of a TOML file, such as the TARGET_settings.toml of a run; flags change them"


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports an error in one line and exits with status 2."""

    def __init__(self, **options) -> None:
        layout = partial(argparse.RawDescriptionHelpFormatter, max_help_position=30, width=SCREEN_WIDTH)
        super().__init__(**options, formatter_class=layout, allow_abbrev=False)

    def error(self, message: object) -> NoReturn:
        """Report a message or an exception as a user error and exit."""
        sys.exit(report_user_error(message))


class SettingsParser(Parser, Generic[S]):
    """Parse a dataclass of settings: the defaults, then a preset's values, then those of a file, then the flags.

    A field `name` is the flag --name; a boolean one also has --no-name; a `Literal` type lists the choices. Further
    flags and positional arguments can be added as to any argparse parser.

    Args:
        kind: a dataclass with a comment behind every field, which is its help text.
        program: how the program is started, for --help.
        description: its purpose, for --help.
        validate: returns all problems of the settings, one phrase each.
        presets: the fields that each preset changes; without presets there is no --preset.
        choose_preset: returns the preset to use without --preset, given the flags' values by name.
        takes_config: whether there is --config, a file of settings between preset and flags.
    """

    def __init__(
        self,
        kind: type[S],
        program: str,
        description: str,
        validate: Callable[[S], list[str]],
        presets: dict[str, dict] | None = None,
        choose_preset: Callable[[dict], str] | None = None,
        takes_config: bool = False,
    ) -> None:
        if any(field.type is bool for field in fields(kind)):
            description += "\n\nA switch --NAME is turned off by --no-NAME."
        description = "\n".join(
            textwrap.fill(line, SCREEN_WIDTH, break_on_hyphens=False) for line in description.splitlines()
        )
        super().__init__(prog=program, usage=f"{program} [flags]", description=description)
        self.kind = kind
        self.validate = validate
        self.presets = presets
        self.choose_preset = choose_preset
        if presets:
            self.add_argument("--preset", choices=list(presets), help="start from these settings; flags change them")
            self.epilog = _format_presets(kind, presets)
        self.set_defaults(config=None)
        if takes_config:
            self.add_argument("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
        documented = _read_comments(kind)
        groups = {}
        for field in fields(kind):
            if field.name not in documented:
                raise TypeError(f"{kind.__name__}.{field.name} needs a comment behind it, on the same line: its help")
            section, comment = documented[field.name]
            if section not in groups:
                groups[section] = self.add_argument_group(section)
            _add_flag(groups[section], field, comment)

    def parse(self, argv: list[str] | None = None) -> tuple[S, argparse.Namespace]:
        """Return the settings, and the values of the arguments that are no settings.

        An invalid command line ends the program with one line on standard error and exit status 2.

        Args:
            argv: the words of the command line; None: the program's own.
        """
        options, unknown = self.parse_known_args(argv)
        if unknown:
            hint = f"{self.prog} --help lists the flags"
            if not unknown[0].startswith("-"):
                switches = sorted(field.name for field in fields(self.kind) if field.type is bool)
                hint = f"switches take no value: --NAME or --no-NAME ({', '.join(switches)})"
            self.error(f"unknown argument {' '.join(unknown)}: {hint}")
        values = {field.name: vars(options).pop(field.name) for field in fields(self.kind)}
        given = {name: value for name, value in values.items() if value is not None}
        try:  # flags have the right types already, but presets and files are edited by hand
            if options.config:
                given = read_config(self.kind, options.config) | given
            if self.presets:
                given = self.presets[options.preset or self.choose_preset(given)] | given
            settings = settings_from_dict(self.kind, given, Path(inspect.getfile(self.kind)).name)
        except (ValueError, OSError) as error:
            self.error(error)
        problems = self.validate(settings)
        if problems:
            source = f"{options.config}: " if options.config else ""
            self.error(source + "; ".join(problems))
        return settings, options


def parse_settings(
    kind: type[S], argv: list[str] | None, program: str, description: str, validate: Callable[[S], list[str]]
) -> S:
    """Return the settings of a program that takes nothing else; the arguments are those of `SettingsParser`."""
    return SettingsParser(kind, program, description, validate).parse(argv)[0]


def format_flag(name: str, value: object) -> str:
    """Return the one word that gives a setting this value on the command line."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={format_value(value)}"


def _read_comments(kind: type) -> dict[str, tuple[str, str]]:
    """Return section and comment of every field, from the source of its class.

    Comments are the documentation that a reader of the source sees; --help shows the same words, so that they are
    written once. A comment on a line of its own begins a section.
    """
    documented = {}
    for owner in reversed(kind.__mro__[:-1]):  # a subclass documents the fields that it redefines
        section = "settings"
        for line in inspect.getsource(owner).splitlines():
            if title := re.fullmatch(r"    # (.+)", line):
                section = title[1]
            elif field := re.fullmatch(r"    (\w+): .*?  # (.+)", line):
                documented[field[1]] = (section, field[2])
    return documented


def _add_flag(group: argparse._ArgumentGroup, field: Field, comment: str) -> None:
    """Add the flag of one field; its value is None where it is not given."""
    flag = f"--{field.name}"
    text = comment.replace("%", "%%")
    if field.default not in ("", ()):  # of an empty default the comment says what it stands for
        text += f" (default: {format_value(field.default)})"
    if field.type is bool:
        group.add_argument(flag, action="store_true", default=None, help=text)
        hidden = argparse.SUPPRESS
        group.add_argument(f"--no-{field.name}", dest=field.name, action="store_false", default=None, help=hidden)
    elif get_origin(field.type) is Literal:
        group.add_argument(flag, choices=get_args(field.type), help=text)
    elif get_origin(field.type) is tuple:
        group.add_argument(flag, type=_parse_name_list, metavar="NAME,...", help=text)
    else:
        metavar = {int: "INT", float: "FLOAT", str: "TEXT"}[field.type]
        group.add_argument(flag, type=field.type, metavar=metavar, help=text)


def _parse_name_list(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def format_value(value: object) -> str:
    """Return a value as it is written on the command line; switches as on and off."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value)


def _format_presets(kind: type, presets: dict[str, dict]) -> str:
    """Return a table of the settings that presets change, one column per preset."""
    changed = [field for field in fields(kind) if any(field.name in changes for changes in presets.values())]
    rows = [["", *presets]]
    for field in changed:
        values = [changes.get(field.name, field.default) for changes in presets.values()]
        rows.append([field.name, *map(format_value, values)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n  ".join(["presets:", *lines])
