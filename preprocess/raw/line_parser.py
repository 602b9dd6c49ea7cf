"""Parse the lines of a file in JSON or as Python literals, plain ones quickly."""

import ast
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

from preprocess.raw.skipped_lines import OddLineError

CONSTANTS = {"nan": math.nan, "NaN": math.nan, "inf": math.inf, "null": None, "true": True, "false": False}
NO_MAPPING = "no mapping of field names"
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
    """Parser of a file's lines: all JSON or all Python literals, as the first object is; they are never evaluated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parse: Callable[[bytes], object] | None = None
        self._loads = _fastest_json_loads()

    def parse(self, number: int, line: bytes) -> dict:
        """Return the object of a line.

        Raises:
            OddLineError: the line is in another format, or no object.
        """
        where = f"line {number}"
        try:
            parse = self._parse or _recognise(line)
            entry = parse(line)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            shown = line[:60].decode(errors="replace").strip()
            problem = f"not {FORMATS[self._parse]}"
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else problem
            advice = "remove the line or download the file again"
            raise OddLineError(self._path, where, reason, f"{problem}: {shown!r}", advice) from error
        if not isinstance(entry, dict):
            problem = f"a mapping of field names is expected, not {type(entry).__name__}"
            raise OddLineError(self._path, where, NO_MAPPING, problem, "remove it")
        self._parse = parse
        return entry

    def parse_quickly(self, number: int, line: bytes) -> dict:
        """Return what `parse` returns, except that integers beyond 64 bits may have become floats.

        Raises:
            OddLineError: as `parse` does.
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


def _recognise(line: bytes) -> Callable[[bytes], object]:
    """Return the parser of a file by its first object."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return _parse_literal
    return json.loads


def _parse_literal(line: bytes) -> object:
    tree = ast.parse(_decode_literal(line), mode="eval")
    return ast.literal_eval(_ConstantNames().visit(tree))


class _ConstantNames(ast.NodeTransformer):
    """Put values in place of names that no literal has, but that `print` and JSON write."""

    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: N802
        """Return the value of a known name."""
        return ast.Constant(CONSTANTS[node.id]) if node.id in CONSTANTS else node


FORMATS = {None: "JSON or a Python literal", json.loads: "JSON", _parse_literal: "a Python literal"}  # by their parser


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
