"""Lines of release files: parsed quickly, they have the outcome of exact parsing."""

import json
from pathlib import Path

import pytest

from preprocess.raw.dataset_writer import _lists_to_json, _to_json
from preprocess.raw.line_parser import MAX_BRACKETS, LineParser, _literal_to_json

NESTED = MAX_BRACKETS + 1  # lists in an object
JSON_LINES = [
    b'{"a": "it\'s \\"q\\" \\n \\u00e9 \\ud83d\\ude00", "b": [1, -2.5, true, null, {"c": []}]}',
    b'{"a": 1, "b": 2, "a": 3}',
    b'{"a": NaN, "b": -Infinity, "c": 1e400}',
    b'{"a": "\\ud800"}',
    b'{"a": "\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"a": 1}',
    b'{"a": -0, "b": 18446744073709551615}',
    b'{"a": ' + b"[" * NESTED + b"]" * NESTED + b"}",
    b'{"a": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    b'{"a": ' + b"1" * 5000 + b"}",
    b'{"a": "\x1f"}',
    b'{"a": "\xff"}',
    b'{"a": 01}',
    b'{"a": 1} x',
    b'["a"]',
    b"{'a': 1}",
    b"{",
]
LITERALS = [
    b"{'a': 'b', 'c': [1, -2.5, {'d': []}], 'e': [['f', \"it's\"]]}",
    b"""{'a': '5" x', 'b': 'it\\'s "q"', "c": "\\n \\xe9 \\u00e9 \\\\"}""",
    b"{'a': '\\ud83d\\ude00'}",
    b"{'a': '\\/', 'b': '\\b'}",
    b"{'a': None, 'b': True, 'c': (1, 2), 'd': {3, 4}, 5: 6}",
    b"{'a': 'b' 'c', 'd': '''e''', 'f': u'g', 'h': b'i'}",
    b"{'a': 1, 'b': 2, 'a': 3}",
    b"{'a': -0, 'b': -0.0, 'c': 1e400, 'd': 1_0, 'e': 0x1f, 'f': +1, 'g': 1 + 2j}",
    b"{'a': 1,}  # it's a comment",
    b"\xef\xbb\xbf  {'a': 1}",
    b"{'a': '\t'}",
    b"{'a': " + b"[" * NESTED + b"]" * NESTED + b"}",
    b"{'a': " + b"[" * 250 + b"]" * 250 + b"}",
    b"{'a': true}",
    b"{'a': NaN}",
    b"{'a': null, 'b': 1}",
    b"{'a': \"b\\\" 'c' ",
    b"{'a': 'b\rc'}",
    b"{'a': '\x00'}",
    b"{'a': '\xff'}",
    b"{'a': 01}",
    b"{'a': __import__('os')}",
    b"['a']",
    b"'",
]


@pytest.mark.parametrize("use_standard_library", [False, True])
@pytest.mark.parametrize(
    ("first", "line"), [(b'{"x": 1}', line) for line in JSON_LINES] + [(b"{'x': 1}", line) for line in LITERALS]
)
def test_quick_and_exact_parsing_have_one_outcome(first, line, use_standard_library):
    parser = LineParser(Path("x.json"))
    parser.parse(1, first)
    if use_standard_library:
        parser._loads = json.loads

    def outcome(parse):
        try:
            return repr(parse(2, line))
        except ValueError as error:
            return str(error)

    assert outcome(parser.parse_quickly) == outcome(parser.parse)


def test_plain_literals_are_read_as_json():
    assert json.loads(_literal_to_json(LITERALS[0])) == {"a": "b", "c": [1, -2.5, {"d": []}], "e": [["f", "it's"]]}
    assert json.loads(_literal_to_json(LITERALS[1])) == {"a": '5" x', "b": 'it\'s "q"', "c": "\n é é \\"}


def test_lists_are_written_as_json_writes_them():
    lists = [[3], [], [1, 20, 300]]
    assert _lists_to_json(iter(lists)) == _to_json(dict(enumerate(lists)))


@pytest.mark.parametrize("code", ["x", "nan()", "__import__('os')", "nan.real", "[n for n in '1']", "true + nan"])
def test_names_are_values_only_where_they_are_known(code):
    parser = LineParser(Path("x.json"))
    entry = parser.parse(1, b"{'a': nan, 'b': [null, true, False], 'c': 'nan', 'd': -inf}")
    assert repr(entry) == "{'a': nan, 'b': [None, True, False], 'c': 'nan', 'd': -inf}"
    with pytest.raises(ValueError, match="not a Python literal"):
        parser.parse(2, f"{{'a': {code}}}".encode())
