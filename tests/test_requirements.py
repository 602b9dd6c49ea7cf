"""The files of requirements agree with each other, and CI and the README's test command install the exact versions."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = "requirements-lock.txt"
FILES = ["requirements.txt", "requirements-dev.txt", "requirements-extras.txt"]


def requirements(name):
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def locked_versions():
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements(LOCK)
    }


@pytest.mark.parametrize("name", FILES)
def test_the_locked_versions_are_those_that_the_files_ask_for(name):
    locked = locked_versions()
    for requirement in requirements(name):
        version = locked.get(canonicalize_name(requirement.name))
        is_optional = name == "requirements-extras.txt" and version is None
        assert is_optional or requirement.specifier.contains(version), requirement


def test_every_line_of_the_lock_is_one_version():
    for requirement in requirements(LOCK):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert "*" not in specifier.version, requirement


def test_the_core_requirements_are_ranges():
    """An exact version would replace the torch of a machine whose driver fits no other."""
    for requirement in requirements("requirements.txt"):
        assert [specifier.operator for specifier in requirement.specifier] == [">="], requirement


def test_ci_and_the_test_command_install_the_locked_versions():
    gate = (ROOT / ".ci" / "run").read_text()
    installs = [line for line in gate.splitlines() if "pip install" in line]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    installs += [line for line in readme.splitlines() if "requirements-dev.txt" in line and "pip install" in line]
    assert len(installs) >= 3
    assert [line for line in installs if f"-c {LOCK}" not in line] == []
