"""Settings as a TOML file: written beside the log of a run, read by --config."""

import tomllib
from pathlib import Path

from utils.cli.restored import settings_from_dict

START_FLAGS = {"resume", "overwrite", "plan"}  # how a program starts: not repeated by a file


def settings_to_toml(settings: object, header: str) -> str:
    """Return the TOML text of all settings but `START_FLAGS`.

    Args:
        settings: a dataclass of strings, numbers, switches and tuples of strings.
        header: a line of comment.
    """
    lines = [f"{name} = {_format(value)}" for name, value in vars(settings).items() if name not in START_FLAGS]
    return "\n".join([f"# {header}", *lines]) + "\n"


def _format(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(map(_escape, value)) + '"'
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_format, value))}]"
    return repr(value)  # Python writes numbers as TOML does, every digit of them


def _escape(character: str) -> str:
    needs_escape = character in '"\\\x7f' or character < " "
    return f"\\u{ord(character):04x}" if needs_escape else character


def read_config(kind: type, path: Path) -> dict:
    """Return the settings of a TOML file, by name.

    Args:
        kind: the dataclass of settings.
        path: the file; it need not have all settings.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no TOML (names the line), or has an unknown setting or a value of another type (names it).
    """
    try:
        # Names of folders may have bytes that are no UTF-8, which settings hold as surrogates
        values = tomllib.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not TOML: {error}; correct it, or give a run's TARGET_settings.toml") from None
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    settings_from_dict(kind, values, path)
    return values
