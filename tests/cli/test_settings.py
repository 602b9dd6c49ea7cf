"""Dataclasses of settings: their flags, and settings restored from files."""

from dataclasses import dataclass
from typing import Literal

import pytest

from utils.cli.flags import SettingsParser, format_flag
from utils.cli.restored import diff_settings, fingerprint, restore_settings


@dataclass(frozen=True)
class Base:
    """Settings with a section."""

    # input
    path: str = ""  # file to read; empty: none
    names: tuple[str, ...] = ("a", "b")  # 50% of the names


@dataclass(frozen=True)
class Derived(Base):
    """Settings that change the comment of an inherited field."""

    names: tuple[str, ...] = ("c",)  # other names
    kind: Literal["x", "y"] = "x"  # kind of output
    fast: bool = True  # be fast


@dataclass(frozen=True)
class Undocumented:
    """Settings without a comment."""

    path: str = ""


def parser_of(kind, presets=None):
    return SettingsParser(kind, "program", "Do something.", lambda settings: [], presets, lambda given: "first")


def test_help_texts_are_the_comments_of_the_most_derived_class():
    shown = " ".join(parser_of(Derived).format_help().split())
    assert "input: --path TEXT file to read; empty: none" in shown
    assert "settings: --names NAME,... other names (default: c) --kind {x,y} kind of output (default: x)" in shown
    assert "50% of the names (default: a,b)" in parser_of(Base).format_help()


def test_a_field_without_a_comment_is_an_error_of_the_program():
    with pytest.raises(TypeError, match="Undocumented.path needs a comment"):
        parser_of(Undocumented)


def test_positional_arguments_may_stand_anywhere():
    for argv in (["file", "--path", "p", "--no-fast"], ["--path", "p", "file", "--no-fast"], ["--no-fast", "file"]):
        parser = parser_of(Derived)
        parser.add_argument("input")
        settings, options = parser.parse(argv)
        assert options.input == "file"
        assert settings == Derived(path="p" if "p" in argv else "", fast=False)


def test_flags_win_over_the_preset_and_the_preset_over_defaults():
    presets = {"first": {"names": ("d",)}, "second": {"names": ("e",), "kind": "y"}}
    assert parser_of(Derived, presets).parse([])[0] == Derived(names=("d",))
    assert parser_of(Derived, presets).parse(["--preset", "second", "--kind", "x"])[0] == Derived(names=("e",))


@pytest.mark.parametrize("settings", [Derived(), Derived(path="p q", names=("f", "g"), kind="y", fast=False)])
def test_formatted_flags_give_the_same_settings(settings):
    argv = [format_flag(name, value) for name, value in vars(settings).items()]
    assert parser_of(Derived).parse(argv)[0] == settings


def test_a_fingerprint_restores_the_settings():
    settings = Derived(path="p", kind="y")
    recorded = fingerprint(settings, {"fast"})
    assert recorded == {"path": "p", "names": ["c"], "kind": "y"}
    assert restore_settings(Derived, recorded | {"CRC-32 of file": "0"}, "log.txt") == settings


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"names": "c"}, "log.txt: names is 'c', expected a tuple of strings"),
        ({"names": [1]}, "log.txt: names is (1,), expected a tuple of strings"),
        ({"kind": "z", "fast": 1}, "log.txt: kind is 'z', expected one of x, y; fast is 1, expected True or False"),
        ({"path": "p"}, "log.txt: invalid recorded settings: no p; put back a copy"),
    ],
)
def test_invalid_recorded_settings_name_the_file(recorded, message):
    with pytest.raises(ValueError, match="log.txt: ") as caught:
        restore_settings(Derived, recorded, "log.txt", lambda settings: ["no p"] if settings.path == "p" else [])
    assert str(caught.value) == message


def test_differences_are_listed_by_name():
    assert diff_settings({"b": 1, "a": 2, "c": 3}, {"b": 1, "a": 4}) == ["a was 2, is now 4", "c was 3, is now None"]
