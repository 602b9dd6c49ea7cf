"""Text that fits a terminal of 100 columns."""

import math
import shlex

import pytest

from utils.cli.layout import LOG_WIDTH, align, format_duration, shorten, wrap_command


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (754, "12 min 34 s"),
        (3600, "1 h 0 min"),
        (18_630, "5 h 10 min"),
        (200_000, "2 d 7 h"),
        (math.nan, "?"),
        (math.inf, "?"),
    ],
)
def test_a_time_has_its_two_largest_units(seconds, text):
    assert format_duration(seconds) == text


def test_a_long_text_loses_its_middle():
    assert shorten("short", 5) == "short"
    assert shorten("a/long/path/of/a/file", 11) == "a/lon…/file"


def test_tables_are_aligned_and_their_first_column_gives_way():
    lines = align([["", "Recall@10"], ["x" * 200, "0.1"], ["y", "0.25"]])
    assert [len(line) for line in lines] == [LOG_WIDTH] * 3
    assert lines[2].startswith("y ")
    assert lines[2].endswith("  0.25")


def test_a_wrapped_command_is_the_same_command():
    words = ["python", "-m", "preprocess.features", *(f"--flag{n}=a b'c" for n in range(20)), "#0"]
    command = wrap_command(words)
    assert max(map(len, command.splitlines())) <= LOG_WIDTH
    assert shlex.split(command.replace("\\\n", "")) == words
