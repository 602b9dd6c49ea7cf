"""Parse the lines of a file in JSON or as Python literals, plain ones quickly."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

# Fast parsers allow deeper nesting than exact ones; lines with more opening brackets are left to the latter
MAX_BRACKETS = 100
# Everything that a plain literal consists of. Words such as None, prefixes and comments are not among it
LITERAL_TOKEN = re.compile(
    r"""
    (?P<plain> (?: [][{}0-9,:.eE+ \t-]++ | '[^'"\\]*+' )++ )  # as in JSON but for the quotation marks
    | (?P<same> "[^"\\]*+" )                                  # as in JSON
    | '[^'\\]*+ (?: \\. [^'\\]*+ )*+ '
    | "[^"\\]*+ (?: \\. [^"\\]*+ )*+ "
    | .                                                       # no token, which literal_eval refuses
    """,
    re.VERBOSE,
)


class LineParser:
    """Parser of a file's lines: all JSON or all Python literals, as the first is. Literals are never evaluated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parse: Callable[[bytes], object] | None = None
        self._expected = "JSON or a Python literal"
        self._loads = _fastest_json_loads()

    def parse(self, number: int, line: bytes) -> dict:
        """Return the object of a line.

        Raises:
            ValueError: naming path and line of what is in another format, or no object.
        """
        try:
            if self._parse is None:
                self._parse, self._expected = _recognise(line)
            entry = self._parse(line)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            shown = line[:60].decode(errors="replace").strip()
            raise ValueError(
                f"{self._path}: line {number}: not {self._expected}: {shown!r}; "
                "remove the line or download the file again"
            ) from error
        if not isinstance(entry, dict):
            found = type(entry).__name__
            raise ValueError(
                f"{self._path}: line {number}: a mapping of field names is expected, not {found}; remove it"
            )
        return entry

    def parse_quickly(self, number: int, line: bytes) -> dict:
        """Return what `parse` returns, except that integers beyond 64 bits may have become floats.

        Raises:
            ValueError: as `parse` does.
        """
        if self._parse is not None and line.count(b"[") + line.count(b"{") <= MAX_BRACKETS:
            try:
                entry = self._loads(line if self._parse is json.loads else _literal_to_json(line))
            except (ValueError, SyntaxError):  # whether `parse` takes it decides
                entry = None
            if type(entry) is dict:
                return entry
        return self.parse(number, line)


def _fastest_json_loads() -> Callable[[bytes | str], object]:
    """Return `json.loads`, or a faster parser that refuses more and makes floats of integers beyond 64 bits."""
    try:
        import orjson  # optional
    except ImportError:
        return json.loads
    return orjson.loads


def _recognise(line: bytes) -> tuple[Callable[[bytes], object], str]:
    """Return the parser of a file by its first line, and the name of its format.

    Raises:
        ValueError, TypeError, SyntaxError, RecursionError, MemoryError: neither format.
    """
    try:
        json.loads(line)
    except ValueError:
        _parse_literal(line)
        return _parse_literal, "a Python literal"
    return json.loads, "JSON"


def _parse_literal(line: bytes) -> object:
    return ast.literal_eval(_decode_literal(line))


def _decode_literal(line: bytes) -> str:
    return line.decode("utf-8-sig").strip()


def _literal_to_json(line: bytes) -> str:
    """Return a text that, if it is JSON, has the value of the literal.

    Raises:
        ValueError, SyntaxError: the line contains more than numbers, strings, lists and dictionaries.
    """
    return LITERAL_TOKEN.sub(_token_to_json, _decode_literal(line))


def _token_to_json(match: re.Match) -> str:
    token = match[0]
    if match.lastgroup == "plain":
        return token.replace("'", '"')
    if match.lastgroup == "same":
        return token
    return json.dumps(ast.literal_eval(token), ensure_ascii=False)  # surrogates stay apart
